//! Whether there is room to scrape.

use crate::handoff::check::{Finding, fail, ok};
use crate::handoff::watch::{ANSWER_TIMEOUT, silent};
use crate::sys::access;
use crate::sys::deadline::within;
use crate::sys::file::plain;
use crate::sys::mounts;
use crate::text::{self, path, printable, shell_path};
use rustix::fs::{CWD, Mode, OFlags, fstat, fstatvfs, openat};
use serde::Serialize;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Minimum number of free inodes; a channel takes three at a time.
const MIN_FREE_INODES: u64 = 16;

/// The file systems that a scrape writes to.
#[derive(Serialize)]
pub(crate) struct Disk {
    /// Minimum free space, in MiB; 0 or less means no check.
    min_free_mib: i64,
    /// The archive's first; each once.
    file_systems: Vec<FileSystem>,
    /// What could not be looked at, and why.
    #[serde(skip)]
    pub(crate) unreadable: Vec<String>,
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
    /// None where the file system sets no limit.
    available_inodes: Option<u64>,
    /// The first folder on it.
    #[serde(skip)]
    folder: Folder,
}

/// A folder that a scrape writes to.
#[derive(Clone)]
pub(crate) struct Folder {
    /// What it is, such as `archive_root`.
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
}

impl Disk {
    /// Looks at the file systems of these folders, or of the nearest folders above them that exist.
    pub(crate) fn look(folders: Vec<Folder>, min_free_mib: i64) -> io::Result<Disk> {
        let found = within(ANSWER_TIMEOUT, move || file_systems(folders))?;
        let (file_systems, unreadable) = found.unwrap_or_else(|| (Vec::new(), vec![silent("an output_dir")]));
        Ok(Disk { min_free_mib, file_systems, unreadable })
    }

    pub(crate) fn free(&self) -> Vec<Finding> {
        let need = self.min_free_mib;
        if need <= 0 {
            return vec![ok(format!("disk: check skipped (DCE_MIN_FREE_MB={need})"))];
        }
        let (mut findings, mut scarce) = (Vec::new(), Vec::new());
        for FileSystem { mount, available_bytes, folder, .. } in &self.file_systems {
            let (shown, free) = (path(mount), available_bytes >> 20);
            if free >= need as u64 {
                findings.push(ok(format!("disk: {shown} has {free} MiB free (need {need} MiB)")));
                continue;
            }
            let line = format!(
                "Insufficient disk space on {shown}: {free} MiB free, need at least {need} MiB under {} ({}). Free \
                 space before scraping.",
                folder.what,
                path(&folder.path)
            );
            scarce.push(fail(line, format!("df -h {}", shell_path(mount))));
        }
        findings.extend(self.unreadable.iter().map(|why| fail(why, "df -h")));
        findings.extend(scarce);
        findings
    }

    pub(crate) fn inodes(&self) -> Vec<Finding> {
        let check = |FileSystem { mount, available_inodes, .. }: &FileSystem| {
            let left = available_inodes.filter(|left| *left < MIN_FREE_INODES)?;
            let line = format!("no inodes left on {}: {left} free, so a scrape cannot create files", path(mount));
            Some(fail(line, format!("df -i {}", shell_path(mount))))
        };
        self.file_systems.iter().filter_map(check).collect()
    }

    /// The rows of `df -hP`.
    pub(crate) fn table(&self) -> String {
        let row = |FileSystem { source, mount, total_bytes, used_bytes, available_bytes, .. }: &FileSystem| {
            let all = used_bytes.saturating_add(*available_bytes);
            let percent = (all > 0).then(|| (u128::from(*used_bytes) * 100).div_ceil(u128::from(all)));
            let percent = percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"));
            let [total, used, available] = [total_bytes, used_bytes, available_bytes].map(|bytes| text::size(*bytes));
            [printable(source), total, used, available, percent, path(mount)]
        };
        let header = ["Filesystem", "Size", "Used", "Avail", "Use%", "Mounted on"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.file_systems.iter().map(row)).collect();
        text::table(&rows, [14, 5, 5, 5, 4, 0], 1..5)
    }
}

/// Each file system once, and what could not be looked at.
fn file_systems(folders: Vec<Folder>) -> (Vec<FileSystem>, Vec<String>) {
    let (mut found, mut unreadable, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for folder in folders {
        let mut look = || {
            let opened = openat(CWD, access::nearest(&folder.path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let device = fstat(&opened)?.st_dev;
            if !seen.contains(&device) {
                seen.push(device);
                found.push(FileSystem::of(&opened, folder.clone())?);
            }
            Ok(())
        };
        if let Err(error) = look() {
            let (what, shown, why) = (folder.what, path(&folder.path), plain(&error));
            unreadable.push(format!("cannot determine the free space of {what} ({shown}): {why}"));
        }
    }
    (found, unreadable)
}

impl FileSystem {
    fn of(opened: &OwnedFd, folder: Folder) -> io::Result<FileSystem> {
        let mount = mounts::find(opened)?.mount;
        let space = fstatvfs(opened)?;
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(FileSystem {
            source: text::whole(&mount.source.to_string_lossy()),
            mount: mount.point,
            total_bytes: bytes(space.f_blocks),
            used_bytes: bytes(space.f_blocks.saturating_sub(space.f_bfree)),
            available_bytes: bytes(space.f_bavail),
            available_inodes: (space.f_files > 0).then_some(space.f_favail),
            folder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(folders: &[&str], need_mib: i64) -> Disk {
        let folder = |path: &&str| Folder { what: "archive_root", path: path.into() };
        Disk::look(folders.iter().map(folder).collect(), need_mib).unwrap()
    }

    #[test]
    fn one_file_system_is_one_row_and_columns_are_dfs() {
        let disk = disk(&["/", "/."], 1);
        assert_eq!(disk.file_systems.len(), 1);
        assert!(disk.free().iter().chain(&disk.inodes()).all(|finding| !finding.has_failed()));
        let table = disk.table();
        let header = table.lines().next().unwrap();
        assert!(header.starts_with("Filesystem") && header.ends_with("Size  Used Avail Use% Mounted on"), "{table}");
        assert!(table.lines().nth(1).unwrap().ends_with("% /"), "{table}");
    }

    #[test]
    fn too_little_room_is_a_failure_unless_unchecked() {
        let line = |folder: &str, need_mib| disk(&[folder], need_mib).free()[0].text();
        assert!(line("/", i64::MAX).starts_with("FAIL: Insufficient disk space on /: "));
        assert!(line("/no/such", 1).starts_with("disk: / has "), "the nearest folder that exists counts");
        assert!(line("/proc/version/x", 1).starts_with("FAIL: cannot determine the free space of archive_root"));
        assert_eq!(line("/", -1), "disk: check skipped (DCE_MIN_FREE_MB=-1)\n");
    }

    fn file_system(used_bytes: u64, available_bytes: u64, available_inodes: Option<u64>) -> Disk {
        let folder = Folder { what: "output_dir", path: "/a/b".into() };
        let (source, mount, total_bytes) = ("/dev/x".to_owned(), "/a".into(), 2 << 30);
        let file_system =
            FileSystem { source, mount, total_bytes, used_bytes, available_bytes, available_inodes, folder };
        Disk { min_free_mib: 1, file_systems: vec![file_system], unreadable: Vec::new() }
    }

    #[test]
    fn too_few_inodes_are_a_failure_and_no_limit_is_none() {
        let inodes = |left| file_system(0, 0, left).inodes();
        assert_eq!(
            inodes(Some(15))[0].text(),
            "FAIL: no inodes left on /a: 15 free, so a scrape cannot create files\n"
        );
        assert!(inodes(Some(16)).is_empty() && inodes(None).is_empty());
        let left = |folder| disk(&[folder], 1).file_systems[0].available_inodes;
        assert_eq!(left("/proc"), None);
        assert!(["/", "/tmp", "/dev/shm"].into_iter().any(|folder| left(folder).is_some()));
    }

    #[test]
    fn use_is_rounded_up_and_of_what_a_user_may_write() {
        let row = |used, available| file_system(used, available, None).table().lines().nth(1).unwrap().to_owned();
        assert_eq!(row(1 << 30, 1 << 30), "/dev/x          2.0G  1.0G  1.0G  50% /a");
        assert_eq!(row(1, (1 << 30) - 1), "/dev/x          2.0G     1  1.0G   1% /a");
        assert_eq!(row(0, 0), "/dev/x          2.0G     0     0    - /a");
    }
}
