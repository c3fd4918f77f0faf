//! What the configuration says to the engine.

use std::time::Duration;

use super::settings::Widen;
use super::{BanRules, Config, Mynetworks};
use crate::engine::EngineConfig;
use crate::engine::allow::AllowConfig;
use crate::engine::sanction::{SanctionConfig, WideningConfig};

/// Longer than any bound: 1,000 years.
const UNBOUNDED: Duration = Duration::from_secs(1_000 * 365 * 86_400);

/// Jails, ban rules and allow list. What only the host knows (its own addresses, Postfix' `mynetworks`, the secret, whether
/// state is kept) is for the caller to add.
impl From<&Config> for EngineConfig {
    fn from(config: &Config) -> Self {
        let mynetworks = match &config.allow.mynetworks {
            Mynetworks::Auto => Vec::new(),
            Mynetworks::These(networks) => networks.clone(),
        };
        EngineConfig {
            jails: config.jails.clone(),
            allow: AllowConfig {
                ignore: config.allow.ignoreip.clone(),
                own: Vec::new(),
                relays: config.allow.relays.clone(),
                mynetworks,
            },
            sanction: SanctionConfig::from(&config.bans),
            ..EngineConfig::default()
        }
    }
}

impl From<&BanRules> for SanctionConfig {
    fn from(rules: &BanRules) -> Self {
        SanctionConfig {
            factor: rules.factor,
            longest: rules.max.unwrap_or(UNBOUNDED),
            memory: rules.memory,
            widening: rules.widen.as_ref().map(WideningConfig::from),
        }
    }
}

impl From<&Widen> for WideningConfig {
    fn from(widen: &Widen) -> Self {
        let never_if_zero = |members: u32| if members == 0 { u32::MAX } else { members };
        WideningConfig {
            addresses_of_24: never_if_zero(widen.addresses_of_ipv4_24),
            nets_of_56: never_if_zero(widen.nets_of_ipv6_56),
            nets_of_48: never_if_zero(widen.nets_of_ipv6_48),
            within: widen.findtime,
            longest: widen.bantime,
            ..WideningConfig::default()
        }
    }
}
