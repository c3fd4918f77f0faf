//! Stage 4, event → decision. Pure: no I/O, no clock.

pub mod decision;
pub mod jail;
