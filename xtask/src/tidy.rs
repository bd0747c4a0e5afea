//! What clippy cannot say about this crate.
