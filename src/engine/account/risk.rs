//! How much speaks against a submitter: points that halve every half-life, by family, with what they came from.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::snapshot::Reader;
use crate::event::{EventKind, words};
use crate::limits;

words! {
    /// What kind of sign it is. A lock needs two kinds.
    Family {
        /// Where and how somebody logs in.
        Login = "login",
        /// How much is done with the account.
        Volume = "volume",
        /// What becomes of its mail.
        Delivery = "delivery",
        /// What others say of its mail.
        Content = "content",
    }
}

impl Family {
    /// What events of a kind are signs of, where a jail does not say.
    pub const fn of(kind: EventKind) -> Family {
        match kind {
            EventKind::Message | EventKind::Session => Family::Volume,
            EventKind::Delivery => Family::Delivery,
            EventKind::SpamVerdict | EventKind::Reject => Family::Content,
            _ => Family::Login,
        }
    }
}

const FAMILIES: usize = Family::ALL.len();
/// Points that make a family count as one of the two that a lock needs.
pub const FAMILY_POINTS_MIN: f64 = 15.0;

/// How the points add up, and what they lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct RiskRules {
    pub alert: f64,
    pub hold: f64,
    pub lock: f64,
    pub half_life: Duration,
    /// How long a lock lasts; the third within a month lasts until somebody lifts it.
    pub lock_time: Duration,
    /// A lock closes the mailbox as well, not only sending.
    pub lock_full: bool,
    /// Locks within ten minutes, all together and within one domain; what comes beyond is held.
    pub locks_per_10_minutes: usize,
    pub locks_per_domain: usize,
    /// Locks within a day.
    pub locks_per_day: usize,
    /// Accounts and `@domains` that are alerted on, but never held or locked.
    pub protected: Vec<String>,
    /// Accounts and `@domains` that send much because that is what they are for: volume is no sign against them.
    pub bulk: Vec<String>,
    /// With less history than this the engine only tells what it would do about accounts.
    pub learning: Duration,
    /// User numbers that hand in mail for others (vmail, mailman): alerted on only. Numbers below 1000 always are.
    pub system_users: Vec<u32>,
}

impl Default for RiskRules {
    fn default() -> Self {
        RiskRules {
            alert: 40.0,
            hold: 70.0,
            lock: 100.0,
            half_life: Duration::from_secs(3_600),
            lock_time: Duration::from_secs(86_400),
            lock_full: false,
            locks_per_10_minutes: 3,
            locks_per_domain: 2,
            locks_per_day: 20,
            protected: Vec::new(),
            bulk: Vec::new(),
            learning: Duration::from_secs(7 * 86_400),
            system_users: vec![5_000],
        }
    }
}

impl RiskRules {
    pub fn is_protected(&self, name: &[u8]) -> bool {
        is_listed(&self.protected, name)
    }

    /// Whether a sign of that family says anything about that submitter.
    pub fn counts(&self, family: Family, name: &[u8]) -> bool {
        family != Family::Volume || !is_listed(&self.bulk, name)
    }
}

fn is_listed(list: &[String], name: &[u8]) -> bool {
    list.iter().map(String::as_bytes).any(|listed| listed == name || listed.starts_with(b"@") && name.ends_with(listed))
}

/// One sign that was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Microseconds since the epoch.
    pub time: i64,
    pub jail: String,
    pub family: Family,
    pub points: u32,
    pub text: String,
}

/// How far a submitter has come up the ladder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    #[default]
    Quiet,
    Alerted,
    Held,
    Locked,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Risk {
    points: [f64; FAMILIES],
    /// The moment to which the points have decayed.
    at: i64,
    pub rung: Rung,
    /// When the engine locked it, the latest last.
    pub locks: Vec<i64>,
    pub signals: VecDeque<Signal>,
}

impl Risk {
    pub fn add(&mut self, signal: Signal, half_life: Duration) {
        self.decay(signal.time, half_life);
        if let Some(points) = self.points.get_mut(signal.family as usize) {
            *points += f64::from(signal.points);
        }
        while self.signals.len() >= limits::SIGNALS_PER_SUBMITTER_MAX {
            self.signals.pop_front();
        }
        self.signals.push_back(signal);
    }

    fn decay(&mut self, now: i64, half_life: Duration) {
        let factor = self.factor(now, half_life);
        self.points.iter_mut().for_each(|points| *points *= factor);
        self.at = self.at.max(now);
    }

    fn factor(&self, now: i64, half_life: Duration) -> f64 {
        let lives = now.saturating_sub(self.at).max(0) as f64 / half_life.as_micros().max(1) as f64;
        libm::exp2(-lives)
    }

    pub fn total(&self, now: i64, half_life: Duration) -> f64 {
        self.points.iter().sum::<f64>() * self.factor(now, half_life)
    }

    pub fn of(&self, family: Family, now: i64, half_life: Duration) -> f64 {
        self.points.get(family as usize).copied().unwrap_or(0.0) * self.factor(now, half_life)
    }

    /// Families with enough points to count.
    pub fn families(&self, now: i64, half_life: Duration) -> usize {
        Family::ALL.iter().filter(|family| self.of(**family, now, half_life) >= FAMILY_POINTS_MIN).count()
    }

    /// Somebody looked at it: what was counted is dealt with. The signals stay for the story.
    pub fn settle(&mut self, now: i64) {
        self.points = [0.0; FAMILIES];
        self.at = now;
        self.rung = Rung::Quiet;
    }

    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        let texts: usize = self.signals.iter().map(|signal| signal.jail.capacity() + signal.text.capacity()).sum();
        self.signals.capacity() * size_of::<Signal>() + texts + self.locks.capacity() * size_of::<i64>()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for points in self.points {
            out.extend_from_slice(&points.to_le_bytes());
        }
        out.extend_from_slice(&self.at.to_le_bytes());
        out.push(self.rung as u8);
        out.push(self.locks.len().min(LOCKS_KEPT) as u8);
        for lock in self.locks.iter().rev().take(LOCKS_KEPT).rev() {
            out.extend_from_slice(&lock.to_le_bytes());
        }
        out.push(self.signals.len() as u8);
        for signal in &self.signals {
            out.extend_from_slice(&signal.time.to_le_bytes());
            out.extend([signal.family as u8]);
            out.extend_from_slice(&signal.points.to_le_bytes());
            for text in [&signal.jail, &signal.text] {
                let text = text.as_bytes();
                let text = text.get(..usize::from(u16::MAX)).unwrap_or(text);
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text);
            }
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<Risk> {
        let mut risk = Risk::default();
        for points in &mut risk.points {
            *points = f64::from_le_bytes(reader.array()?);
            if !points.is_finite() {
                return None;
            }
        }
        risk.at = reader.i64()?;
        risk.rung = match reader.u8()? {
            0 => Rung::Quiet,
            1 => Rung::Alerted,
            2 => Rung::Held,
            3 => Rung::Locked,
            _ => return None,
        };
        for _ in 0..reader.u8()? {
            risk.locks.push(reader.i64()?);
        }
        for _ in 0..reader.u8()? {
            let (time, family, points) = (reader.i64()?, reader.u8()?, reader.u32()?);
            let family = *Family::ALL.get(usize::from(family))?;
            let (jail, text) = (reader.text()?, reader.text()?);
            risk.signals.push_back(Signal { time, jail, family, points, text });
        }
        Some(risk)
    }
}

/// Locks remembered, to make a repeated one last.
pub const LOCKS_KEPT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const LIFE: Duration = Duration::from_secs(3_600);

    fn signal(time: i64, family: Family, points: u32) -> Signal {
        Signal { time, jail: "j".to_owned(), family, points, text: "x".to_owned() }
    }

    #[test]
    fn points_halve_every_half_life() {
        let mut risk = Risk::default();
        risk.add(signal(HOUR, Family::Login, 40), LIFE);
        risk.add(signal(2 * HOUR, Family::Volume, 20), LIFE);
        assert!((risk.total(2 * HOUR, LIFE) - 40.0).abs() < 1e-9);
        assert!((risk.total(4 * HOUR, LIFE) - 10.0).abs() < 1e-9);
        assert_eq!(risk.families(2 * HOUR, LIFE), 2);
        assert_eq!(risk.families(3 * HOUR, LIFE), 0);
    }

    #[test]
    fn the_evidence_is_bounded_and_survives_being_written() {
        let mut risk = Risk { locks: vec![1, 2], rung: Rung::Held, ..Risk::default() };
        for time in 0..100 {
            risk.add(signal(time, Family::Content, 1), LIFE);
        }
        assert_eq!(risk.signals.len(), limits::SIGNALS_PER_SUBMITTER_MAX);
        let mut bytes = Vec::new();
        risk.encode(&mut bytes);
        assert_eq!(Risk::decode(&mut Reader(&bytes)), Some(risk));
        for cut in 0..bytes.len() {
            let _ = Risk::decode(&mut Reader(&bytes[..cut]));
        }
    }
}
