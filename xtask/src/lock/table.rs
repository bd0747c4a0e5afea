//! Lines of the kernel's lock table: `/proc/locks` and the `lock:` lines of
//! `/proc/PID/fdinfo/FD` (proc(5); `lock_get_status` in the kernel's fs/locks.c).

/// An inode as the lock table names it. The device is the super block's, which `stat` does not report on
/// btrfs and overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LockKey {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

impl LockKey {
    /// The text of the key in the table, between the pid and the range.
    pub(crate) fn column(self) -> String {
        format!("{}{} ", LockKey::start_of_column(self.major, self.minor), self.inode)
    }

    /// What the keys of all files of a device start with.
    pub(crate) fn start_of_column(major: u32, minor: u32) -> String {
        format!(" {major:02x}:{minor:02x}:")
    }
}

/// The kind of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LockType {
    /// flock(2).
    Flock,
    /// fcntl(2), of a process (`POSIX`) or of an open file description (`OFDLCK`).
    Posix,
    /// What an NFS client may keep its locks under, unseen by the server.
    Delegation,
    /// Leases and whatever comes later: they do not exclude a flock.
    Other,
}

/// One line about a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) lock_type: LockType,
    /// `WRITE`; anything else shares.
    pub(crate) is_exclusive: bool,
    /// Marked `->`: it waits for the lock and does not hold it.
    pub(crate) is_waiter: bool,
    /// The process that took it, which need not be one that holds it now; 0 or negative if unknown.
    pub(crate) pid: i32,
    /// None for a lock whose file has no inode any more (`<none>:0`).
    pub(crate) key: Option<LockKey>,
}

impl Entry {
    /// Whether it keeps a scrape out: a flock in either mode, or an exclusive fcntl lock, which is what an NFS
    /// client's flock looks like on the server (flock(2)).
    pub(crate) fn keeps_out_scrapes(&self) -> bool {
        !self.is_waiter
            && match self.lock_type {
                LockType::Flock => true,
                LockType::Posix => self.is_exclusive,
                LockType::Delegation | LockType::Other => false,
            }
    }
}

/// Parses a line `ID: [->] TYPE ADVISORY MODE PID MAJ:MIN:INO START END`, major and minor in hexadecimal.
/// None for anything else.
pub(crate) fn parse_line(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next()?.strip_suffix(':')?;
    id.parse::<u64>().ok()?;
    let mut word = words.next()?;
    let is_waiter = word == "->";
    if is_waiter {
        word = words.next()?;
    }
    let lock_type = match word {
        "FLOCK" => LockType::Flock,
        "POSIX" | "OFDLCK" => LockType::Posix,
        "DELEG" => LockType::Delegation,
        _ => LockType::Other,
    };
    let _advisory = words.next()?;
    let is_exclusive = words.next()? == "WRITE";
    let pid = words.next()?.parse().ok()?;
    let key = match words.next()? {
        "<none>:0" => None,
        key => Some(parse_key(key)?),
    };
    Some(Entry { lock_type, is_exclusive, is_waiter, pid, key })
}

/// The entries of a table's lines that have `column`.
pub(crate) fn entries_with(table: &str, column: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = table;
    // Most lines of a long table are about other files: only those with the column are parsed.
    while let Some(at) = rest.find(column) {
        // The newline in front of a line is a blank to its parser.
        let start = rest[..at].rfind('\n').unwrap_or(0);
        let end = rest[at..].find('\n').map_or(rest.len(), |newline| at + newline);
        let has_column = |entry: &Entry| entry.key.is_some_and(|key| key.column().starts_with(column));
        entries.extend(parse_line(&rest[start..end]).filter(has_column));
        rest = &rest[end..];
    }
    entries
}

/// The entries of an fdinfo file: the locks that this descriptor holds.
pub(crate) fn fdinfo_entries(fdinfo: &str) -> impl Iterator<Item = Entry> {
    fdinfo.lines().filter_map(|line| parse_line(line.strip_prefix("lock:")?))
}

fn parse_key(text: &str) -> Option<LockKey> {
    let (major, rest) = text.split_once(':')?;
    let (minor, inode) = rest.split_once(':')?;
    Some(LockKey {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
        inode: inode.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: LockKey = LockKey { major: 0xfe, minor: 0, inode: 10010645 };

    fn flock(pid: i32) -> Entry {
        Entry { lock_type: LockType::Flock, is_exclusive: true, is_waiter: false, pid, key: Some(KEY) }
    }

    #[test]
    fn flock_holder_is_read() {
        assert_eq!(parse_line("1: FLOCK  ADVISORY  WRITE 1946 fe:00:10010645 0 EOF"), Some(flock(1946)));
    }

    #[test]
    fn flocks_and_exclusive_fcntl_locks_keep_scrapes_out() {
        let keeps_out = |line: &str| parse_line(line).unwrap().keeps_out_scrapes();
        assert!(keeps_out("1: FLOCK  ADVISORY  WRITE 1 fe:00:1 0 EOF"));
        assert!(keeps_out("1: FLOCK  ADVISORY  READ 1 fe:00:1 0 EOF"));
        assert!(keeps_out("1: POSIX  ADVISORY  WRITE 1 fe:00:1 0 EOF"));
        assert!(!keeps_out("1: POSIX  ADVISORY  READ 1 fe:00:1 0 EOF"));
        assert!(!keeps_out("1: LEASE  ACTIVE  WRITE 1 fe:00:1 0 EOF"));
        assert!(!keeps_out("1: -> FLOCK  ADVISORY  WRITE 1 fe:00:1 0 EOF"));
    }

    #[test]
    fn waiter_is_not_a_holder() {
        let waiter = Entry { is_waiter: true, ..flock(1950) };
        assert_eq!(parse_line("1: -> FLOCK  ADVISORY  WRITE 1950 fe:00:10010645 0 EOF"), Some(waiter));
        assert_eq!(parse_line("12:   -> FLOCK  ADVISORY  WRITE 1950 fe:00:10010645 0 EOF"), Some(waiter));
    }

    #[test]
    fn other_types_and_modes_are_distinguished() {
        let lock = |line: &str| parse_line(line).map(|entry| (entry.lock_type, entry.is_exclusive, entry.pid));
        assert_eq!(lock("2: POSIX  ADVISORY  WRITE 812 00:1a:2 0 EOF"), Some((LockType::Posix, true, 812)));
        assert_eq!(lock("3: OFDLCK ADVISORY  READ -1 00:06:1041 0 EOF"), Some((LockType::Posix, false, -1)));
        assert_eq!(lock("4: LEASE  ACTIVE    READ 99 08:01:7 0 EOF"), Some((LockType::Other, false, 99)));
        assert_eq!(lock("5: POSIX  *NOINODE* READ 0 <none>:0 0 0"), Some((LockType::Posix, false, 0)));
        assert_eq!(
            lock("6: DELEG  BREAKING  UNLCK 0 103:0a:18446744073709551615 0 EOF").map(|l| l.0),
            Some(LockType::Delegation)
        );
    }

    #[test]
    fn what_is_not_a_lock_line_is_skipped() {
        for line in [
            "",
            "1:",
            "1: FLOCK",
            "x: FLOCK ADVISORY WRITE 1 fe:00:1 0 EOF",
            "1: FLOCK ADVISORY WRITE x fe:00:1 0 EOF",
            "1: FLOCK ADVISORY WRITE 1 fe:00 0 EOF",
            "1: FLOCK ADVISORY WRITE 99999999999 fe:00:1 0 EOF",
        ] {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }

    #[test]
    fn fdinfo_names_the_descriptors_locks() {
        let fdinfo = "pos:\t0\nflags:\t0102001\nmnt_id:\t27\nino:\t10010645\n\
                      lock:\t1: FLOCK  ADVISORY  WRITE 1946 fe:00:10010645 0 EOF\n";
        assert_eq!(fdinfo_entries(fdinfo).collect::<Vec<_>>(), [flock(1946)]);
    }

    #[test]
    fn only_the_inode_asked_for_is_found() {
        let table = "1: FLOCK  ADVISORY  WRITE 1 fe:00:1001064 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 2 fe:00:10010645 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 3 fe:00:10010645 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4 fe:01:10010645 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 5 1fe:00:10010645 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 6 fe:00:100106451 0 EOF";
        assert_eq!(entries_with(table, &KEY.column()), [flock(2), Entry { is_waiter: true, ..flock(3) }]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            parse_line(&text);
            entries_with(&text, &KEY.column());
            fdinfo_entries(&text).count();
        }

        #[test]
        fn a_lock_in_the_table_is_found_anywhere(
            before in prop::collection::vec((0..2000u64, any::<i32>()), 0..20), after in 0..20u64, pid: i32,
            major in 0..0xfffu32, minor in 0..0xfffffu32, inode: u64,
        ) {
            let key = LockKey { major, minor, inode };
            let line = |id: u64, pid: i32, key: LockKey| format!("{id}: FLOCK  ADVISORY  WRITE {pid}{}0 EOF\n", key.column());
            let other = |inode| LockKey { major: 0xffff, minor, inode };
            let mut table: String = before.iter().map(|&(inode, pid)| line(1, pid, other(inode))).collect();
            table += &line(99, pid, key);
            table.extend((0..after).map(|inode| line(3, 1, other(inode))));
            let found = entries_with(&table, &key.column());
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!((found[0].pid, found[0].key), (pid, Some(key)));
        }
    }
}
