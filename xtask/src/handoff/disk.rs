//! Whether there is room to scrape.

use crate::env::Env;
use crate::handoff::check::Check;
use crate::sys::file::plain;
use crate::sys::mounts;
use crate::target::Resolved;
use crate::text::{self, path, printable};
use anyhow::anyhow;
use rustix::fs::{CWD, Mode, OFlags, fstatvfs, openat};
use serde::Serialize;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file systems that a scrape writes to.
#[derive(Serialize)]
pub(crate) struct Disk {
    /// Minimum free space, in MiB; 0 means no check.
    min_free_mib: u64,
    /// The archive's first; one when both folders are on the same.
    file_systems: Vec<FileSystem>,
    /// What could not be looked at, and why.
    #[serde(skip)]
    unreadable: Vec<String>,
    #[serde(skip)]
    archive_root: PathBuf,
}

#[derive(Serialize)]
struct FileSystem {
    source: String,
    #[serde(serialize_with = "text::lossy")]
    mount: PathBuf,
    total_bytes: u64,
    used_bytes: u64,
    /// What an ordinary user may still write.
    available_bytes: u64,
    #[serde(skip)]
    device: (u32, u32),
}

impl Disk {
    /// Looks at the file systems of the archive and of the repository.
    pub(crate) fn look(resolved: &Resolved, env: &Env) -> anyhow::Result<Disk> {
        let min_free_mib = env.min_free_mib.as_ref().map_err(|text| {
            let shown = printable(text.as_encoded_bytes());
            anyhow!("DCE_MIN_FREE_MB is `{shown}`, not a number\nhint: give it in MiB; 0 means no check")
        })?;
        let archive_root = resolved.archive_root.as_ref().map_or(&resolved.repo_root, |root| &root.path);
        Ok(Disk::of(archive_root, &resolved.repo_root, *min_free_mib))
    }

    fn of(archive_root: &Path, repo_root: &Path, min_free_mib: u64) -> Disk {
        let (mut file_systems, mut unreadable) = (Vec::new(), Vec::new());
        for (name, folder) in [("archive_root", archive_root), ("repo_root", repo_root)] {
            match FileSystem::of(folder) {
                Ok(found) => file_systems.push(found),
                Err(error) => {
                    let (folder, why) = (path(folder), plain(&error));
                    unreadable.push(format!("cannot determine the free space of {name} ({folder}): {why}"));
                }
            }
        }
        file_systems.dedup_by_key(|file_system| file_system.device);
        Disk { min_free_mib, file_systems, unreadable, archive_root: archive_root.to_path_buf() }
    }

    pub(crate) fn checks(&self) -> Vec<Check> {
        let need = self.min_free_mib;
        if need == 0 {
            return vec![Check::Ok("disk: check skipped (DCE_MIN_FREE_MB=0)".to_owned())];
        }
        let check = |file_system: &FileSystem| {
            let (mount, free) = (path(&file_system.mount), file_system.available_bytes >> 20);
            if free >= need {
                return Check::Ok(format!("disk: {mount} has {free} MiB free (need {need} MiB)"));
            }
            Check::Fail(format!(
                "Insufficient disk space on {mount}: {free} MiB free, need at least {need} MiB under archive_root \
                 ({}). Free space before scraping.",
                path(&self.archive_root)
            ))
        };
        let checks = self.file_systems.iter().map(check);
        let (mut checks, scarce): (Vec<Check>, Vec<Check>) = checks.partition(|check| matches!(check, Check::Ok(_)));
        checks.extend(self.unreadable.iter().cloned().map(Check::Fail).chain(scarce));
        checks
    }

    /// The rows of `df -hP`.
    pub(crate) fn table(&self) -> String {
        let row = |file_system: &FileSystem| {
            let all = file_system.used_bytes.saturating_add(file_system.available_bytes);
            let percent = (all > 0).then(|| (u128::from(file_system.used_bytes) * 100).div_ceil(u128::from(all)));
            [
                file_system.source.clone(),
                human(file_system.total_bytes),
                human(file_system.used_bytes),
                human(file_system.available_bytes),
                percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
                path(&file_system.mount),
            ]
        };
        let header = ["Filesystem", "Size", "Used", "Avail", "Use%", "Mounted on"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.file_systems.iter().map(row)).collect();
        text::table(&rows, [14, 5, 5, 5, 4, 0], 1..5)
    }
}

impl FileSystem {
    fn of(folder: &Path) -> io::Result<FileSystem> {
        let folder = openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mount = mounts::find(&folder)?.mount;
        let space = fstatvfs(&folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(FileSystem {
            source: printable(mount.source.as_bytes()),
            mount: mount.point,
            total_bytes: bytes(space.f_blocks),
            used_bytes: bytes(space.f_blocks.saturating_sub(space.f_bfree)),
            available_bytes: bytes(space.f_bavail),
            device: (mount.major, mount.minor),
        })
    }
}

/// A size as `df -h` has it: rounded up, with a decimal below 10.
fn human(bytes: u64) -> String {
    let in_unit = |power| (u128::from(bytes) * 10).div_ceil(1024u128.pow(power));
    let (power, letter) = (1..).zip("KMGTP".chars()).find(|&(power, _)| in_unit(power) <= 10_230).unwrap_or((6, 'E'));
    match in_unit(power) {
        _ if bytes < 1024 => bytes.to_string(),
        tenths @ ..100 => format!("{}.{}{letter}", tenths / 10, tenths % 10),
        tenths => format!("{}{letter}", tenths.div_ceil(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::check::problems;

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
        let disk = Disk::of(Path::new("/"), Path::new("/."), 1);
        assert_eq!((disk.file_systems.len(), problems(&disk.checks())), (1, Vec::new()));
        let table = disk.table();
        let header = table.lines().next().unwrap();
        assert!(header.starts_with("Filesystem") && header.ends_with("Size  Used Avail Use% Mounted on"), "{table}");
        assert!(table.lines().nth(1).unwrap().ends_with("% /"), "{table}");
    }

    #[test]
    fn too_little_room_and_no_folder_are_problems_unless_unchecked() {
        let look = |folder: &str, need_mib| problems(&Disk::of(Path::new(folder), Path::new("/"), need_mib).checks());
        assert!(look("/", u64::MAX)[0].starts_with("Insufficient disk space on /: "));
        assert_eq!(
            look("/no/such", 1),
            ["cannot determine the free space of archive_root (/no/such): no such file or directory"]
        );
        assert_eq!(look("/no/such", 0), [""; 0]);
    }
}
