//! The scrape lock: which file it is, whether it is held and by whom, and taking it. A library by rule:
//! no command line, no environment, no printing.

mod file;
pub(crate) mod guard;
pub(crate) mod judge;
mod kernel;
pub(crate) mod observe;
pub(crate) mod path;
pub(crate) mod sidecar;
mod table;
pub(crate) mod walk;
mod wanted;
