//! Whether there is room to scrape.

use crate::bounded::plain;
use crate::lock::mounts;
use crate::text::{path, printable};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file systems that a scrape writes to.
pub(crate) struct Disk {
    /// The archive's first; one when both folders are on the same.
    pub(crate) file_systems: Vec<FileSystem>,
    /// What could not be looked at, and why.
    pub(crate) unreadable: Vec<String>,
    /// So much must be free, in MiB; 0 means no check.
    pub(crate) need_mib: u64,
    archive_root: PathBuf,
}

/// Sizes are in bytes.
pub(crate) struct FileSystem {
    pub(crate) source: String,
    pub(crate) mount: PathBuf,
    pub(crate) total: u64,
    pub(crate) used: u64,
    /// What an ordinary user may still write.
    pub(crate) available: u64,
    device: (u32, u32),
}

impl Disk {
    /// Looks at the file systems of the archive and of the repository.
    pub(crate) fn look(archive_root: Option<&Path>, repo_root: &Path, need_mib: u64) -> Disk {
        let archive_root = archive_root.unwrap_or(repo_root);
        let mut disk = Disk {
            file_systems: Vec::new(),
            unreadable: Vec::new(),
            need_mib,
            archive_root: archive_root.to_path_buf(),
        };
        for (name, folder) in [("archive_root", archive_root), ("repo_root", repo_root)] {
            match FileSystem::of(folder) {
                Ok(found) if disk.file_systems.iter().all(|known| known.device != found.device) => {
                    disk.file_systems.push(found);
                }
                Ok(_) => {}
                Err(error) => disk.unreadable.push(format!(
                    "cannot tell the free space of {name} ({}): {}",
                    path(folder),
                    plain(&error)
                )),
            }
        }
        disk
    }

    /// The rows of `df -hP`.
    pub(crate) fn table(&self) -> String {
        let row = |file_system: &FileSystem| {
            let all = file_system.used.saturating_add(file_system.available);
            let percent = (all > 0).then(|| (u128::from(file_system.used) * 100).div_ceil(u128::from(all)));
            [
                file_system.source.clone(),
                human(file_system.total),
                human(file_system.used),
                human(file_system.available),
                percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
                path(&file_system.mount),
            ]
        };
        let header = ["Filesystem", "Size", "Used", "Avail", "Use%", "Mounted on"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.file_systems.iter().map(row)).collect();
        crate::text::table(&rows, [14, 5, 5, 5, 4, 0], 1..5)
    }

    /// A line for each file system with room enough.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.need_mib == 0 {
            return vec!["disk: check skipped (DCE_MIN_FREE_MB=0)".to_owned()];
        }
        let enough = self.file_systems.iter().filter(|file_system| file_system.available_mib() >= self.need_mib);
        let line = |file_system: &FileSystem| {
            let (mount, free) = (path(&file_system.mount), file_system.available_mib());
            format!("disk: {mount} has {free} MiB free (need {} MiB)", self.need_mib)
        };
        enough.map(line).collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        if self.need_mib == 0 {
            return Vec::new();
        }
        let scarce = self.file_systems.iter().filter(|file_system| file_system.available_mib() < self.need_mib);
        let problem = |file_system: &FileSystem| {
            format!(
                "Insufficient disk space on {}: {} MiB free, need at least {} MiB under archive_root ({}). \
                 Free space before scraping.",
                path(&file_system.mount),
                file_system.available_mib(),
                self.need_mib,
                path(&self.archive_root)
            )
        };
        self.unreadable.iter().cloned().chain(scarce.map(problem)).collect()
    }
}

impl FileSystem {
    fn of(folder: &Path) -> io::Result<FileSystem> {
        let folder = open(folder, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let mount = mounts::place(&folder)?.mount;
        let space = fstatvfs(&folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size());
        Ok(FileSystem {
            source: printable(mount.source.as_bytes()),
            mount: mount.point,
            total: bytes(space.blocks()),
            used: bytes(space.blocks().saturating_sub(space.blocks_free())),
            available: bytes(space.blocks_available()),
            device: (mount.major, mount.minor),
        })
    }

    fn available_mib(&self) -> u64 {
        self.available >> 20
    }
}

/// A size as `df -h` has it: rounded up, with a decimal below 10.
fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 1u128;
    for letter in ['K', 'M', 'G', 'T', 'P'] {
        unit *= 1024;
        let tenths = (u128::from(bytes) * 10).div_ceil(unit);
        if tenths < 100 {
            return format!("{}.{}{letter}", tenths / 10, tenths % 10);
        }
        let whole = u128::from(bytes).div_ceil(unit);
        if whole < 1024 {
            return format!("{whole}{letter}");
        }
    }
    format!("{}E", u128::from(bytes).div_ceil(unit * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_df_rounds_them() {
        let cases = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10 << 10, "10K"),
            ((10 << 10) - 1, "10K"),
            ((10 << 10) + 1, "11K"),
            ((1 << 20) - 1, "1.0M"),
            (264_212_084 << 10, "252G"),
            (12_334_524 << 10, "12G"),
            (u64::MAX, "16E"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(human(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn one_file_system_is_one_row_and_columns_are_dfs() {
        let disk = Disk::look(Some(Path::new("/")), Path::new("/."), 1);
        assert_eq!((disk.file_systems.len(), disk.problems()), (1, Vec::new()));
        let table = disk.table();
        let header = table.lines().next().unwrap();
        assert!(header.starts_with("Filesystem") && header.ends_with("Size  Used Avail Use% Mounted on"), "{table}");
        assert!(table.lines().nth(1).unwrap().ends_with("% /"), "{table}");
    }

    #[test]
    fn too_little_room_and_no_folder_are_problems_unless_unchecked() {
        let look = |folder: &str, need_mib| Disk::look(Some(Path::new(folder)), Path::new("/"), need_mib).problems();
        assert!(look("/", u64::MAX)[0].starts_with("Insufficient disk space on /: "));
        assert_eq!(
            look("/no/such", 1),
            ["cannot tell the free space of archive_root (/no/such): no such file or directory"]
        );
        assert_eq!(look("/no/such", 0), [""; 0]);
    }
}
