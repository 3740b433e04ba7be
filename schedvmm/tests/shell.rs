// SPDX-License-Identifier: Apache-2.0
//! Completions and manual pages: of this executable, so that they have what it has.

use std::collections::BTreeSet;
use std::process::{Command, Output};

fn schedvmm(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_schedvmm")).args(words).output().expect("it starts")
}

fn text(words: &[&str]) -> String {
    let output = schedvmm(words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Verbs, as `--help` lists them.
fn verbs() -> Vec<String> {
    let help = text(&["--help"]);
    let list = help.split_once("Commands:\n").expect("a list of verbs").1;
    let lines =
        list.lines().take_while(|line| !line.starts_with("Arguments") && *line != "Options:");
    let verbs = lines.filter_map(|line| line.strip_prefix("  "));
    let verbs = verbs.filter(|line| line.starts_with(|letter: char| letter.is_ascii_lowercase()));
    let names = verbs.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Long options in a help, each once.
fn options(help: &str) -> BTreeSet<&str> {
    let words = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let option = line
            .split_once(", ")
            .map_or(line, |(short, long)| if short.len() == 2 { long } else { line });
        option.strip_prefix("--")
    });
    words.filter_map(|word| word.split([' ', '[', '=']).next()).collect()
}

#[test]
fn bash_completes_an_option_and_a_verb() {
    let script = text(&["completions", "bash"]);
    for (word, completed) in [("--cosch", "--cosched"), ("bis", "bisect"), ("matr", "matrix")] {
        let shell = format!(
            "{script}\nCOMP_WORDS=(schedvmm {word}); COMP_CWORD=1; \
             _schedvmm schedvmm {word} schedvmm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &shell]).output().expect("bash");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(found.trim(), completed, "{output:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(text(&["completions", shell]).contains("bisect"), "{shell}");
    }
    assert_eq!(schedvmm(&["completions", "cmd"]).status.code(), Some(200));
}

#[test]
fn every_verb_has_a_page_with_every_option() {
    let verbs = verbs();
    assert!(verbs.len() > 15 && verbs.iter().any(|verb| verb == "trials"), "{verbs:?}");
    let of_all = (vec!["--help"], vec!["man"], "schedvmm".to_owned());
    let each = verbs
        .iter()
        .map(|verb| (vec![&**verb, "--help"], vec!["man", verb], format!("schedvmm-{verb}")));
    for (help, man, title) in each.chain([of_all]) {
        let (help, page) = (text(&help), text(&man));
        assert!(page.contains(&format!(".TH {title} 1 ")), "{man:?}: {page}");
        // As roff has it.
        let plain = page.replace("\\-", "-");
        for option in options(&help) {
            assert!(plain.contains(&format!("--{option}")), "{man:?} lacks --{option}");
        }
    }
    let none = schedvmm(&["man", "dance"]);
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(
        (none.status.code(), told.contains("there is no verb \"dance\"")),
        (Some(200), true)
    );
}
