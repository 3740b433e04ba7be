// SPDX-License-Identifier: Apache-2.0
//! Axes and numbers of the pictures.

/// Where values of an axis lie in a picture.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
    logarithmic: bool,
}

impl Axis {
    /// Values `from` to `to` lie between `begin` and `end`, evenly.
    pub fn linear((from, to): (f64, f64), (begin, end): (f64, f64)) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        Self { from, to, begin, end, logarithmic: false }
    }

    /// The same, with equal factors at equal distances. Values are positive.
    pub fn logarithmic((from, to): (f64, f64), (begin, end): (f64, f64)) -> Self {
        let from = from.max(f64::MIN_POSITIVE);
        Self { from, to: to.max(from * 1.0001), begin, end, logarithmic: true }
    }

    /// Where a value lies; those outside lie at the ends.
    pub fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.begin + part.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    /// Whether a value is on the axis.
    pub fn has(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// Powers of ten on a logarithmic axis.
    pub fn decades(&self) -> impl Iterator<Item = f64> + '_ {
        #[allow(clippy::cast_possible_truncation, reason = "a logarithm of an f64 is below 310")]
        let (first, last) = (self.from.log10().ceil() as i32, self.to.log10().floor() as i32);
        (first..=last).map(|power| 10_f64.powi(power))
    }

    /// Round values on a linear axis, about `count` of them.
    pub fn round_values(&self, count: u32) -> Vec<f64> {
        let rough = (self.to - self.from) / f64::from(count.max(1));
        let magnitude = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * magnitude)
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.from / step).ceil() * step;
        (0..=2 * count)
            .map(|index| first + f64::from(index) * step)
            .take_while(|value| *value <= self.to)
            .collect()
    }
}

/// A coordinate, to a tenth of a pixel.
pub fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

/// A whole number as a value of an axis.
#[allow(clippy::cast_precision_loss, reason = "a picture needs no 53 bits")]
pub fn real(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_reach_from_end_to_end() {
        let log = Axis::logarithmic((1.0, 10_000.0), (100.0, 500.0));
        assert_eq!(
            [1.0, 100.0, 10_000.0, 0.0, 1e9].map(|v| log.at(v)),
            [100.0, 300.0, 500.0, 100.0, 500.0]
        );
        assert_eq!(log.decades().collect::<Vec<_>>(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        let linear = Axis::linear((-20.0, 80.0), (0.0, 1000.0));
        assert_eq!([-20.0, 0.0, 80.0].map(|v| linear.at(v)), [0.0, 200.0, 1000.0]);
        assert_eq!(linear.round_values(5), [-20.0, 0.0, 20.0, 40.0, 60.0, 80.0]);
        assert!(linear.has(80.0) && !linear.has(80.1));
    }

    #[test]
    fn an_axis_of_one_value_has_a_place_for_it() {
        let point = Axis::linear((5.0, 5.0), (0.0, 10.0));
        assert!((0.0..=10.0).contains(&point.at(5.0)));
        assert!(Axis::logarithmic((0.0, 0.0), (0.0, 10.0)).at(1.0).is_finite());
        assert!(point.round_values(5).len() <= 11);
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!([1.0, 2.25, 3.04, -0.5].map(px), ["1", "2.2", "3", "-0.5"]);
    }
}
