//! From options and configuration to everything that the core needs; each failure says what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use log::{info, warn};
use nix::unistd::Uid;

use super::Options;
use super::decisions::Effects;
use super::inbox::{self, ControlThread, Inbox};
use super::log as logging;
use crate::config::allow::{Mynetworks, Trusted, ask_postfix};
use crate::config::settings::{LogLevel, LogTarget};
use crate::config::{Config, Paths};
use crate::correlate::Correlator;
use crate::engine::{Engine, EngineConfig};
use crate::parse::{FilterSet, ParserOptions};
use crate::source::origin::Trust;
use crate::source::{Inherited, Source};
use crate::store::{Loaded, Store};
use crate::time::{Clock, SteadyClock, Timestamp};

pub(super) struct Setup {
    pub clock: SteadyClock,
    pub config: Arc<Config>,
    pub filters: Arc<FilterSet>,
    pub parser_options: ParserOptions,
    pub trust: Trust,
    pub correlator: Correlator,
    pub engine: Engine,
    pub sources: Vec<Source>,
    pub effects: Effects,
}
