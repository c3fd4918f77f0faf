//! What the engine gets of the configuration. The daemon adds what it finds on the host: own addresses, Postfix's networks.

use super::Config;
use super::allow::Mynetworks;
use super::settings::{BanRules, Widen};
use crate::engine::EngineConfig;
use crate::engine::allow::AllowConfig;
use crate::engine::sanction::{SanctionConfig, WideningConfig};

impl From<&Config> for EngineConfig {
    fn from(config: &Config) -> EngineConfig {
        let mynetworks = match &config.allow.mynetworks {
            Mynetworks::These(networks) => networks.clone(),
            Mynetworks::Auto => Vec::new(),
        };
        let (ignore, relays) = (config.allow.ignoreip.clone(), config.allow.relays.clone());
        let allow = AllowConfig { ignore, relays, mynetworks, ..AllowConfig::default() };
        EngineConfig { jails: config.jails.clone(), allow, sanction: SanctionConfig::from(&config.bans), ..EngineConfig::default() }
    }
}

impl From<&BanRules> for SanctionConfig {
    fn from(rules: &BanRules) -> SanctionConfig {
        SanctionConfig {
            factor: rules.factor,
            longest: rules.max.unwrap_or(std::time::Duration::MAX),
            memory: rules.memory,
            widening: rules.widen.as_ref().map(WideningConfig::from),
        }
    }
}

impl From<&Widen> for WideningConfig {
    fn from(widen: &Widen) -> WideningConfig {
        WideningConfig {
            addresses_of_24: widen.addresses_of_ipv4_24,
            nets_of_56: widen.nets_of_ipv6_56,
            nets_of_48: widen.nets_of_ipv6_48,
            within: widen.findtime,
            longest: widen.bantime,
            ..WideningConfig::default()
        }
    }
}
