//! A small file system of its own, which a test can fill.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::process::HelperError;

/// An ext4 in a file, mounted over a loop device. It is unmounted in the end, also when the test fails, and the device goes with it.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    /// The file system's file, and the folder that it is mounted on.
    folder: tempfile::TempDir,
}

impl Disk {
    /// Makes one. Needs root.
    pub fn mount(bytes: u64) -> Result<Self, HelperError> {
        let prepare = |what: &str| {
            let what = what.to_owned();
            move |source| HelperError::Prepare { what, source }
        };
        let folder = tempfile::tempdir().map_err(prepare("a folder"))?;
        let (image, place) = (folder.path().join("image"), folder.path().join("disk"));
        let made = fs::File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(prepare("a file for a disk"))?;
        fs::create_dir(&place).map_err(prepare("a place for a disk"))?;
        let disk = Self { place, folder };
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(disk.folder.path().join("image"))
            .arg(&disk.place))?;
        for path in [disk.folder.path(), &disk.place] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))
                .map_err(prepare("rights of a disk"))?;
        }
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// A folder on it that anybody may write to.
    pub fn open_folder(&self, name: &str) -> Result<PathBuf, HelperError> {
        let path = self.place.join(name);
        let made = fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o777)));
        made.map_err(|source| HelperError::Prepare {
            what: format!("folder {name}"),
            source,
        })?;
        Ok(path)
    }

    /// Leaves so many bytes free, and takes the rest.
    pub fn fill(&self, leave: u64) -> Result<(), HelperError> {
        let mut left = self.free()?.saturating_sub(leave);
        let prepare = |source| HelperError::Prepare {
            what: "a full disk".to_owned(),
            source,
        };
        let mut file = fs::File::create(self.place.join("filler")).map_err(prepare)?;
        let piece = vec![1; 64 << 10];
        while left > 0 {
            let bytes = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.write_all(&piece[..bytes]) {
                Ok(()) => left -= bytes as u64,
                // What the file system needs for itself was not counted.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(prepare(error)),
            }
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub fn clear(&self) -> Result<(), HelperError> {
        fs::remove_file(self.place.join("filler")).map_err(|source| HelperError::Prepare {
            what: "room on a disk".to_owned(),
            source,
        })
    }

    fn free(&self) -> Result<u64, HelperError> {
        let mut command = Command::new("stat");
        command.args(["-f", "-c", "%a %S"]).arg(&self.place);
        let output = command.output().map_err(|source| HelperError::Start {
            program: "stat".to_owned(),
            source,
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<u64> = text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers.as_slice() {
            [blocks, size] => Ok(blocks * size),
            _ => Err(HelperError::Refused {
                what: "the room on a disk".to_owned(),
                reply: text,
            }),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left behind does not keep it.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

fn run(command: &mut Command) -> Result<(), HelperError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| HelperError::Start {
        program: program.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(HelperError::Refused {
        what: program,
        reply: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
