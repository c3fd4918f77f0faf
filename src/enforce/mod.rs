//! Stage 5, decision → world.

pub mod nft;
