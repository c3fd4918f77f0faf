//! The file of hooks: which commands a verb runs. Root's alone, or it is refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Wrong, duration};
use crate::limits::CONFIG_FILE_BYTES_MAX;

const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Of all commands of a hook: the daemon waits somewhat longer for the answer.
pub const TOTAL_MAX: Duration = Duration::from_secs(600);
const COMMANDS_MAX: usize = 16;
const VERBS: [&str; 4] = ["lock", "unlock", "hold", "release"];

/// `hooks.toml`, checked.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    verbs: BTreeMap<String, Hook>,
    /// Configuration directories of the Postfix instances whose queues are looked after; empty: the usual one.
    pub instances: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Hook {
    /// In order; each an absolute path and its arguments.
    pub commands: Vec<Vec<OsString>>,
    /// Of each command.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHooks {
    #[serde(default)]
    postfix_instances: Vec<PathBuf>,
    #[serde(default)]
    hook: BTreeMap<HookVerb, RawHook>,
}

/// One of [`VERBS`].
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct HookVerb(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHook {
    run: Vec<Vec<String>>,
    timeout: Option<String>,
}

impl TryFrom<String> for HookVerb {
    type Error = String;

    fn try_from(verb: String) -> Result<HookVerb, String> {
        if VERBS.contains(&verb.as_str()) {
            return Ok(HookVerb(verb));
        }
        let Wrong { message, label, help } = Wrong::unknown("hook", &verb, &VERBS);
        Err(format!("{message}; {}", help.unwrap_or(label)))
    }
}

impl Hooks {
    /// Without the file there are no hooks, and the queue is looked after all the same.
    pub fn load(path: &Path) -> Result<Hooks, String> {
        let at = |problem: String| format!("{}: {problem}", path.display());
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Hooks::default()),
            Err(error) => return Err(at(error.to_string())),
        };
        if metadata.len() > CONFIG_FILE_BYTES_MAX as u64 {
            return Err(at("it is too large".into()));
        }
        check_owner(path)?;
        let text = fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        Hooks::parse(&text).map_err(at)
    }

    fn parse(text: &str) -> Result<Hooks, String> {
        let raw: RawHooks = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut verbs = BTreeMap::new();
        for (HookVerb(verb), hook) in raw.hook {
            let hook = Hook::resolve(hook).map_err(|problem| format!("[hook.{verb}]: {problem}"))?;
            verbs.insert(verb, hook);
        }
        if let Some(relative) = raw.postfix_instances.iter().find(|path| !path.is_absolute()) {
            return Err(format!("postfix_instances: {} is not an absolute path", relative.display()));
        }
        Ok(Hooks { verbs, instances: raw.postfix_instances })
    }

    pub fn of(&self, verb: &str) -> Option<&Hook> {
        self.verbs.get(verb)
    }

    pub fn verbs(&self) -> Vec<String> {
        self.verbs.keys().cloned().collect()
    }

    /// What is allowed and hardly meant.
    pub fn warnings(&self) -> Vec<String> {
        let lacks_undo = self.verbs.contains_key("lock") && !self.verbs.contains_key("unlock");
        let text = "warning: there is [hook.lock] and no [hook.unlock]: what the lock's commands do, nothing takes back";
        lacks_undo.then(|| text.to_owned()).into_iter().collect()
    }

    pub fn summary(&self) -> String {
        if self.verbs.is_empty() {
            return "no hooks".into();
        }
        self.verbs.iter().map(|(verb, hook)| format!("{verb}: {} commands", hook.commands.len())).collect::<Vec<_>>().join("\n")
    }
}

impl Hook {
    fn resolve(raw: RawHook) -> Result<Hook, String> {
        let timeout = raw.timeout.map_or(Ok(TIMEOUT), |text| duration::parse(&text))?;
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(format!("timeout: at most {} s, and more than none", TIMEOUT_MAX.as_secs()));
        }
        if raw.run.is_empty() || raw.run.len() > COMMANDS_MAX {
            return Err(format!("run: 1 to {COMMANDS_MAX} commands, each a list of a path and its arguments"));
        }
        for command in &raw.run {
            let program = command.first().ok_or("run: an empty command")?;
            if !Path::new(program).is_absolute() {
                return Err(format!("run: {program:?} is not an absolute path"));
            }
            check_owner(Path::new(program))?;
        }
        let total = timeout.saturating_mul(raw.run.len() as u32);
        if total > TOTAL_MAX {
            return Err(format!(
                "timeout: {} commands of {} s each; at most {} s together, or other accounts wait too long",
                raw.run.len(),
                timeout.as_secs(),
                TOTAL_MAX.as_secs()
            ));
        }
        let commands = raw.run.into_iter().map(|command| command.into_iter().map(OsString::from).collect()).collect();
        Ok(Hook { commands, timeout })
    }
}

/// A file that somebody else could change is somebody else's file; so is one in a directory where they could replace it.
pub(super) fn check_owner(path: &Path) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let metadata = fs::metadata(&real).map_err(|error| format!("{}: {error}", real.display()))?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", real.display()));
    }
    check_mode(&real, &metadata)?;
    let directory = real.parent().unwrap_or(Path::new("/"));
    let metadata = fs::metadata(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    check_mode(directory, &metadata)
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    if metadata.uid() != 0 {
        return Err(format!("{} must belong to root (chown root {0})", path.display()));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(format!("{} must be writable by root alone (chmod go-w {0})", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("[hook.lock]\nrun = [[\"bin/true\"]]", "not an absolute path"),
            ("[hook.lock]\nrun = []", "1 to 16 commands"),
            ("[hook.lock]\nrun = [[]]", "an empty command"),
            ("[hook.lock]\nrun = \"rm -rf /\"", "invalid type"),
            ("[hook.lock]\nrun = [[\"/bin/true\"]]\nshell = true", "unknown field"),
            ("[hook.lock]\nrun = [[\"/bin/true\"]]\ntimeout = \"1h\"", "at most 300 s"),
            ("[hook.lock]\nrun = [[\"/bin/true\"], [\"/bin/true\"], [\"/bin/true\"]]\ntimeout = \"300s\"", "at most 600 s together"),
            ("[hook.lock]\nrun = [[\"/nowhere/true\"]]", "/nowhere/true"),
            ("postfix_instances = [\"etc\"]", "not an absolute path"),
            ("[hooks.lock]\nrun = []", "unknown field"),
            ("[hook.lock]\nrun = [[\"/bin/true\"]]\n[hook.unlokc]\nrun = []", "unknown hook \"unlokc\"; did you mean \"unlock\"?"),
            ("[hook.unlokc]", "line 1, column 7"),
            ("[hook.queue-hold]\nrun = [[\"/bin/true\"]]", "there are: lock, unlock, hold, release"),
        ] {
            let problem = Hooks::parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        assert!(Hooks::parse("").unwrap().verbs().is_empty());
    }

    #[test]
    fn a_lock_that_nothing_takes_back_is_told() {
        let hook = |verb: &str| format!("[hook.{verb}]\nrun = [[\"/bin/true\"]]\n");
        let warnings = |verbs: &[&str]| verbs.iter().map(|verb| hook(verb)).collect::<String>();
        for (verbs, expected) in [(&["lock"][..], 1), (&["lock", "unlock"], 0), (&["hold"], 0), (&["lock", "release"], 1), (&[], 0)] {
            match Hooks::parse(&warnings(verbs)) {
                Ok(hooks) => assert_eq!(hooks.warnings().len(), expected, "{verbs:?}"),
                // Somebody else's /bin/true.
                Err(problem) => assert!(problem.contains("root"), "{problem}"),
            }
        }
    }
}
