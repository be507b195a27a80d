//! One target under libFuzzer: `KUBEDB_FUZZ_TARGET` names it. With `--seeds FOLDER` it writes its seeds there and ends.

#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls a C function of a certain name")]

use std::sync::OnceLock;

use kubedb_fuzz::{TARGETS, Target};

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("KUBEDB_FUZZ_TARGET").unwrap_or_default();
        let known = TARGETS.iter().find(|target| target.name == name);
        known.unwrap_or_else(|| panic!("KUBEDB_FUZZ_TARGET={name:?} is no target"))
    })
}

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("KUBEDB_FUZZ_SEEDS") {
            for (number, seed) in kubedb_fuzz::seeds(target()).iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("seed-{number:03}"));
                std::fs::write(path, seed).expect("seeds can be written");
            }
        }
    },
    |bytes: &[u8]| {
        (target().run)(bytes);
    }
);
