//! What killed scrapes left in an archive.

use crate::config::channel::channel_id;
use crate::sys::file::{Links, open_folder, written_at};
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `.dce-temp/export.CHANNEL.RANDOM`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) channel: u128,
    pub(crate) folder: PathBuf,
    /// When its export was last written; None if it cannot be looked at.
    pub(crate) written: Option<SystemTime>,
}

/// The leftovers of an archive, the oldest first.
pub(crate) fn find(root: &Path) -> io::Result<Vec<Leftover>> {
    let temporary = root.join(".dce-temp");
    let mut opened = match open_folder(&temporary, Links::Refuse) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut found = Vec::new();
    while let Some(entry) = opened.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let digits = name.strip_prefix(b"export.").and_then(|rest| rest.split(|&byte| byte == b'.').next());
        let Some(channel) = digits.and_then(channel_id) else { continue };
        let export = [name, b"/export.json"].concat();
        let written = match statat(opened.fd()?, &export[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            // Reading it will say why.
            Err(_) => None,
            Ok(stat) => written_at(&stat),
        };
        found.push(Leftover { channel, folder: temporary.join(OsStr::from_bytes(name)), written });
    }
    found.sort_by_key(|leftover| (leftover.channel, leftover.written));
    Ok(found)
}
