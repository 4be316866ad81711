//! A disk so small that a queue can fill it: a file with a file system in it, where we may mount one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    failure::{Context, Failure, Outcome},
    packages,
};

/// The whole disk. Redis writes some kilobytes a job: thousands of them do not fill what is left beside the ballast.
const BYTES: u64 = 64 << 20;

/// A mounted file system, unmounted with its owner.
pub struct Disk {
    place: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever is open on it keeps it until it ends; nothing new comes.
        quietly(Command::new("umount").arg("--lazy").arg(&self.place));
    }
}

impl Disk {
    /// A disk at `place`, or `None` where we may not mount one: that is the superuser's, and not in every container.
    pub fn mount(image: &Path, place: &Path) -> Outcome<Option<Self>> {
        if !packages::is_root() {
            return Ok(None);
        }
        fs::create_dir_all(place).context(format!("cannot make {}", place.display()))?;
        // Left over from a run that was cut off.
        while quietly(Command::new("umount").arg("--lazy").arg(place)) {}
        let file = fs::File::create(image).context(format!("cannot make {}", image.display()))?;
        file.set_len(BYTES).context("cannot make a file large")?;
        let mounted = quietly(Command::new("/sbin/mkfs.ext4").args(["-q", "-m", "0"]).arg(image))
            && quietly(Command::new("mount").args(["-o", "loop"]).arg(image).arg(place));
        Ok(mounted.then(|| Self { place: place.to_owned() }))
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Fills it up to this share, as others who use the same disk would.
    pub fn fill(&self, share: f64) -> Outcome {
        let (size, used) = self.size_and_use()?;
        let wanted = (size as f64 * share) as u64;
        let ballast = vec![1; usize::try_from(wanted.saturating_sub(used)).context("too large")?];
        fs::write(self.ballast(), ballast).context("cannot fill the disk")?;
        fs::File::open(self.ballast()).and_then(|file| file.sync_all()).context("cannot fill the disk")
    }

    /// Makes room again.
    pub fn free(&self) -> Outcome {
        fs::remove_file(self.ballast()).context("cannot free the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }

    fn size_and_use(&self) -> Outcome<(u64, u64)> {
        let mut command = Command::new("df");
        let output = command.args(["--block-size=1", "--output=size,avail"]).arg(&self.place).output();
        let output = output.context("cannot run df")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(size), Some(free)) => Ok((size, size - free.min(size))),
            _ => Err(Failure::new(format!("df does not know {}", self.place.display()))),
        }
    }
}

fn quietly(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_filled_and_freed_where_one_can_be_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let (image, place) = (folder.path().join("image"), folder.path().join("disk"));
        let Some(disk) = Disk::mount(&image, &place).unwrap() else { return };
        let share = || {
            let (size, used) = disk.size_and_use().unwrap();
            used as f64 / size as f64
        };
        let before = share();
        disk.fill(0.8).unwrap();
        assert!((share() - 0.8).abs() < 0.01, "{}", share());
        disk.free().unwrap();
        assert!((share() - before).abs() < 0.01, "{}", share());
    }
}
