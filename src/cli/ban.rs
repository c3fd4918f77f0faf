//! `ban`, `unban`, `undo`.

use std::process::ExitCode;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use super::when::BanTime;
use super::{Global, exchange, out, print_message, refuse, report, simple};
use crate::control::{Code, Request, Response};
use crate::engine::jail::Scope;
use crate::time::Timestamp;

/// Networks in one request: well below what a request may have in bytes.
const NETS_PER_REQUEST: usize = 10_000;

pub(super) fn ban(global: &Global, nets: Vec<IpNetwork>, time: BanTime, scope: Scope, reason: String, force: bool) -> ExitCode {
    in_parts(global, &nets, "banned", |nets| Request::Ban { nets, seconds: time.seconds(), scope, reason: reason.clone(), force })
}

pub(super) fn unban(global: &Global, nets: Vec<IpNetwork>, all: bool) -> ExitCode {
    if all { simple(global, &Request::UnbanAll) } else { in_parts(global, &nets, "unbanned", |nets| Request::Unban { nets }) }
}

pub(super) fn undo(global: &Global, since: Timestamp) -> ExitCode {
    simple(global, &Request::Undo { since: since.micros() })
}

/// As [`simple`], with one answer however many networks there are.
fn in_parts(global: &Global, nets: &[IpNetwork], done: &str, request: impl Fn(Vec<IpNetwork>) -> Request) -> ExitCode {
    if nets.len() <= NETS_PER_REQUEST {
        return simple(global, &request(nets.to_vec()));
    }
    let mut sum = Sum { done: done.to_owned(), ..Sum::default() };
    for part in nets.chunks(NETS_PER_REQUEST) {
        match exchange(global, &request(part.to_vec())) {
            Ok(response) if matches!(response.code, Code::Ok | Code::Refused | Code::NotFound) => sum.add(response),
            failed => {
                out::complain!("mailwarden: {} {} networks before this:", sum.done, sum.changed);
                return failed.map_or_else(|error| report(global, &error), |response| refuse(global, &response));
            }
        }
    }
    let response = sum.into_response();
    if response.code == Code::Ok { out::done(print_message(global, &response)) } else { refuse(global, &response) }
}

/// The answers to several requests, as one.
#[derive(Default)]
struct Sum {
    /// In the daemon's words: a dry run has others.
    done: String,
    /// In which scope, and until when.
    lasting: String,
    code: Code,
    changed: u64,
    data: Map<String, Value>,
    lifted: Vec<Value>,
    lines: Vec<String>,
}

impl Sum {
    fn add(&mut self, response: Response) {
        let changed = response.data["changed"].as_u64().unwrap_or(0);
        self.changed += changed;
        self.lifted.extend(response.data["lifted"].as_array().cloned().unwrap_or_default());
        let how_many = format!(" {changed} networks");
        if let Some((done, lasting)) = response.message.lines().next().and_then(|line| line.split_once(&how_many)) {
            (self.done, self.lasting) = (done.to_owned(), lasting.to_owned());
        }
        if let Value::Object(data) = response.data {
            self.data.extend(data);
        }
        // The first line says how many: that is added up.
        self.lines.extend(response.message.lines().skip(usize::from(changed > 0)).map(str::to_owned));
        self.code = match (self.code, response.code) {
            (Code::Refused, _) | (_, Code::Ok) => self.code,
            (_, worse) => worse,
        };
    }

    fn into_response(mut self) -> Response {
        self.lines.insert(0, format!("{} {} networks{}", self.done, self.changed, self.lasting));
        let mut data = Value::Object(self.data);
        data["changed"] = self.changed.into();
        if !self.lifted.is_empty() {
            data["lifted"] = self.lifted.into();
        }
        Response { code: self.code, message: self.lines.join("\n"), data }
    }
}
