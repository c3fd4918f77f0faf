//! The caps that a busy or hostile day may come near, in one place; those of a detail stand beside what they bound. None of them
//! stops the daemon.

use std::time::Duration;

/// Longest line that is looked at; the rest of a longer one is cut off and the cut counted. Postfix cuts at 2,000 bytes,
/// rsyslog at 8 KiB.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Events or lines that the core handles before it looks at its other inputs.
pub const BATCH_EVENTS_MAX: usize = 256;
/// Keys in one table of a jail.
pub const KEYS_PER_TABLE_MAX: usize = 4_000_000;
/// Shards of a table, so that no single growth takes long.
pub const TABLE_SHARDS: usize = 256;
/// Distinct values remembered for one key of a `distinct` jail.
pub const DISTINCT_PER_KEY_MAX: usize = 4_096;
/// Units of one key's window; a longer window forgets its beginning.
pub const WINDOW_UNITS_PER_KEY_MAX: usize = 65_536;
/// Addresses remembered for a successful login or an accepted message.
pub const KNOWN_ADDRESSES_MAX: usize = 1_000_000;
/// Subjects whose earlier bans are remembered.
pub const HISTORY_SUBJECTS_MAX: usize = 1_000_000;
/// Recent offending lines, in bytes, that evidence is taken from.
pub const EVIDENCE_RING_BYTES: usize = 1 << 20;
/// Bans whose lines of evidence are kept in memory; the store keeps all.
pub const STORIES_MAX: usize = 4_096;
/// Changes of the ledger that `undo` can turn back (beside the bans still in force).
pub const LEDGER_CHANGES_MAX: usize = 65_536;
/// Messages (queue ids) followed at once.
pub const MESSAGES_MAX: usize = 400_000;
/// Bans in force at once.
pub const BANS_MAX: usize = 2_000_000;
/// Elements of one nftables set.
pub const SET_ELEMENTS_MAX: u32 = 2_097_152;
/// Elements written to the kernel in one slice of a bulk load.
pub const BULK_ELEMENTS_MAX: usize = 500;
/// Lines of evidence kept with a decision.
pub const EVIDENCE_LINES_MAX: usize = 10;
/// Bytes of one line of evidence.
pub const EVIDENCE_LINE_BYTES_MAX: usize = 400;
/// Bytes of the reason that an operator gives.
pub const REASON_BYTES_MAX: usize = 200;
/// Longest account name; a longer one is cut and never equals a whole name.
pub const ACCOUNT_BYTES_MAX: usize = 255;
/// Decisions waiting for the core to pick them up.
pub const DECISIONS_PENDING_MAX: usize = 1_000_000;
/// Bytes of one file of the configuration.
pub const CONFIG_FILE_BYTES_MAX: usize = 8 << 20;
/// Jails in one configuration.
pub const JAILS_MAX: usize = 256;
/// Bytes of one request on the control socket.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 1 << 20;
/// Control connections served at once.
pub const CONTROL_CONNECTIONS_MAX: usize = 64;
/// Connections whose failures are remembered until they end.
pub const SESSIONS_MAX: usize = 65_536;
/// Rows that wait for a disk; what comes beyond them is not saved.
pub const STORE_PENDING_ROWS_MAX: usize = 1_000_000;
/// Accounts held or locked at once.
pub const STOPPED_ACCOUNTS_MAX: usize = 10_000;
/// Bytes of one database of countries or AS numbers; the largest that are sold have 400 MB.
pub const GEO_FILE_BYTES_MAX: u64 = 1 << 30;
/// Entries of such a database that are looked at for the names of its fields.
pub const GEO_PROBES_MAX: usize = 4_096;
/// Submitters with a history.
pub const SUBMITTERS_MAX: usize = 1_000_000;
/// Signs kept for the story of one submitter.
pub const SIGNALS_PER_SUBMITTER_MAX: usize = 12;
/// Moments in the window of one ratio; a longer one forgets its beginning.
pub const RATIO_UNITS_PER_KEY_MAX: usize = 4_096;
/// Messages of one account that are put on hold or let go at once.
pub const HELD_MESSAGES_MAX: usize = 20_000;
/// Messages named in one request to the root helper.
pub const ERRAND_MESSAGES_MAX: usize = 1_000;
/// Bytes of one request to the root helper, and of its answer.
pub const HELPER_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Errands of the root helper that wait.
pub const ERRANDS_WAITING_MAX: usize = 10_000;
/// Bytes of a hook's output that are kept: its end.
pub const HOOK_OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// Ids of done errands that the root helper remembers.
pub const HELPER_DONE_MAX: usize = 20_000;
/// Bytes of one request of the policy protocol; of a longer one the rest is not looked at.
pub const POLICY_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Policy connections served at once: more than the smtpd processes of a large host.
pub const POLICY_CONNECTIONS_MAX: usize = 4_096;
/// Submitters that `accounts` can show.
pub const WATCHED_ACCOUNTS_MAX: usize = 10_000;
/// Messages to people that wait for one server; the oldest of more are given up.
pub const TELLINGS_WAITING_MAX: usize = 2_000;
/// Ids of messages to people that are remembered, so that none is sent twice.
pub const TELLINGS_KNOWN_MAX: usize = 20_000;
/// How long the store remembers errands and messages that are over, and parked mail of accounts that nothing stops any more.
pub const OUTBOX_MEMORY: Duration = Duration::from_secs(30 * 86_400);
/// Decisions that one message describes in full, and those that it has a line for.
pub const DIGEST_FULL_MAX: usize = 5;
pub const DIGEST_LINES_MAX: usize = 100;
/// Addresses named in a message.
pub const PLACES_TOLD_MAX: usize = 12;
/// Submitters that the tally of an hour keeps apart.
pub const TALLY_NAMES_PER_HOUR_MAX: usize = 512;
