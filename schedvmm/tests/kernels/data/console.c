static const char info[] __attribute__((section(".modinfo"), used)) =
	"license=GPL\0depends=virtio\0name=virtio_console\0vermagic=6.12.1-made SMP mod_unload ";
