//! What a local user can try to pass off as a line of Postfix, through `/dev/log` or straight into mailwarden's socket.

/// Datagrams that all say, in one way or another, that `victim` guessed passwords, and that root or Postfix said so.
///
/// Of a datagram rsyslog takes everything up to the first space as the tag, control characters included, and puts what
/// the kernel says behind it.
pub fn datagrams(victim: &str) -> Vec<String> {
    let failure = format!("warning: unknown[{victim}]: SASL LOGIN authentication failed: (reason unavailable)");
    let header = "<22>Nov 24 02:31:15";
    let iso = "<22>2026-11-24T02:31:15.477488+00:00";
    let mut forged = vec![
        // Nothing but a lie.
        format!("{header} postfix/smtpd[99]: {failure}"),
        format!("{header} postfix/submission/smtpd[99]: {failure}"),
        // The uid in the message, in the tag, as the tag, around it.
        format!("{header} postfix/smtpd[99]: [uid=0] {failure}"),
        format!("{header} postfix/smtpd[99]:[uid=0] {failure}"),
        format!("{header} postfix/smtpd[99]:[uid=0]: {failure}"),
        format!("{header} postfix/smtpd[99][uid=0]: {failure}"),
        format!("{header} postfix/smtpd[99]:\t[uid=0]\t{failure}"),
        format!("{header} postfix/smtpd[99]:\t[uid=0] {failure}"),
        format!("{header} [uid=0] postfix/smtpd[99]: {failure}"),
        format!("{header}  [uid=0] postfix/smtpd[99]: {failure}"),
        format!("{header} : [uid=0] postfix/smtpd[99]: {failure}"),
        format!("{header} [uid=0]postfix/smtpd[99]: {failure}"),
        // Other envelopes than /dev/log has.
        format!("{header} mail postfix/smtpd[99]: [uid=0] {failure}"),
        format!("{iso} mail postfix/smtpd[99]: [uid=0] {failure}"),
        format!("<22>1 2026-11-24T02:31:15.477488+00:00 mail postfix/smtpd 99 - - [uid=0] {failure}"),
        format!("<22>postfix/smtpd[99]: [uid=0] {failure}"),
        format!("<22>[uid=0] {failure}"),
        format!("postfix/smtpd[99]: [uid=0] {failure}"),
        // rsyslog's property by its own name.
        format!("{header} postfix/smtpd[99]: @cee:{{\"uid\":0}} {failure}"),
        // A second line in the datagram, in the message and in the tag.
        format!("{header} x: y\n{iso} mail postfix/smtpd[99]: [uid=0] {failure}"),
        format!("{header} x:\n{iso} mail postfix/smtpd[99]: [uid=0] {failure}"),
        format!("{header} x:\n{iso} postfix/smtpd[99]: [uid=0] {failure}"),
        format!("{header} x:\npostfix/smtpd[99]: [uid=0] {failure}"),
        format!("{header} x:\n{header}\tmail\tpostfix/smtpd[99]:\t[uid=0]\t{failure}"),
        // The end of a string in C.
        format!("{header} postfix/smtpd[99]: \0[uid=0] {failure}"),
        format!("{header} postfix/smtpd[99]:\0 [uid=0] {failure}"),
        // Longer than anything that looks at it.
        format!("{header} {}: [uid=0] {failure}", "postfix/smtpd".repeat(700)),
        format!("{header} postfix/smtpd[99]: {} [uid=0] {failure}", "x".repeat(9000)),
    ];
    // Each separator that rsyslog's copy may be moved by: it counts an escaped control character as four.
    forged.extend((1..8).map(|count| {
        let shift = "\u{1}".repeat(count);
        format!("{header} x{shift}\n{iso} mail postfix/smtpd[99]: [uid=0] {failure}")
    }));
    forged
}
