//! What the kernel offers, wrapped once. Nothing here knows the scrape lock or any command.

pub(crate) mod access;
pub(crate) mod child;
pub(crate) mod deadline;
pub(crate) mod file;
pub(crate) mod mounts;
pub(crate) mod procfs;
pub(crate) mod signals;
