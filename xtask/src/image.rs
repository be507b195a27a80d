//! `cargo xtask image`: our one image, with one static program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster, say,
    tools::{self, run},
};

/// A program that needs nothing of the image that it runs in, be it Debian's or Alpine's.
pub(crate) const STATIC: &str = "-Ctarget-feature=+crt-static";

/// With the compiler's target named, what runs at compile time stays as it is: only the program becomes static.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The release, as an archive that `docker load` and `ctr images import` read.
pub(crate) fn release() -> Result<PathBuf, String> {
    let program = build()?;
    cluster::build()?;
    let archive = tools::target_folder().join("kubedb-image.tar");
    write(&program, &archive)?;
    say(&format!("written: {}", archive.display()));
    Ok(archive)
}

/// Gives the program that was built with the tests to the clusters that are brought up from now on. A static one would take as long as all tests.
pub(crate) fn write_for_tests() -> Result<(), String> {
    let images = tools::cache_folder()?.join("cluster/images");
    fs::create_dir_all(&images).map_err(|e| format!("failed to make {}: {e}", images.display()))?;
    let program = tools::target_folder().join("debug").join("kubedb");
    write(&program, &images.join("kubedb.tar"))
}

fn build() -> Result<PathBuf, String> {
    let target = target();
    // A folder of its own: who builds tests meanwhile is not kept waiting.
    let folder = tools::target_folder().join("image");
    let cargo = tools::cargo();
    let mut command = Command::new("nice");
    command
        .arg(cargo.get_program())
        .args([
            "build",
            "-q",
            "--release",
            "-p",
            "kubedb",
            "--target",
            &target,
        ])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(tools::workspace())
        // Debug information would be nine tenths of the image.
        .env("RUSTFLAGS", format!("{STATIC} -Cstrip=symbols"));
    for (name, value) in cargo.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    run(&mut command)?;
    Ok(folder.join(target).join("release").join("kubedb"))
}

fn write(program: &Path, archive: &Path) -> Result<(), String> {
    run(cluster::program()
        .arg("image")
        .arg(program)
        .arg(format!("kubedb:{}", env!("CARGO_PKG_VERSION")))
        .arg(archive))
}
