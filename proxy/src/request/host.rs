//! Whom a request is for. Pure: request head in, destination out.

use crate::pod_key::{LABEL_LEN, PodKey};
use crate::request::error_response::Fault;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `<label>.anything`; `None` when the label has a pod's shape but can be no pod's key.
    Pod(Option<PodKey>),
    /// Every other name, and HTTP/1.0 without a name.
    Control,
}

/// What the head of an acceptable request says about its destination.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted<'b> {
    pub(crate) destination: Destination,
    /// The host as the client wrote it; only HTTP/1.0 may leave it out.
    pub(crate) host: Option<&'b [u8]>,
}

/// What a head says of whom it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'b> {
    /// The one Host field.
    pub(crate) host: Option<&'b [u8]>,
    /// Of a target in absolute form.
    pub(crate) authority: Option<&'b [u8]>,
    /// HTTP/1.0 knows no Host.
    pub(crate) may_be_missing: bool,
}

/// Refuses what no upstream should see, and names the destination of the rest (RFC 9112 section 3.2).
pub(crate) fn admit(named: Named<'_>) -> Result<Admitted<'_>, Fault> {
    let leads = |host| Ok(Admitted { destination: destination(host).ok_or(Fault::BadHost)?, host: Some(host) });
    match (named.host, named.authority) {
        (Some(host), Some(authority)) if !authority.eq_ignore_ascii_case(host) => Err(Fault::BadHost),
        (Some(host), _) => leads(host),
        (None, _) if !named.may_be_missing => Err(Fault::BadHost),
        (None, Some(authority)) => leads(authority),
        (None, None) => Ok(Admitted { destination: Destination::Control, host: None }),
    }
}

/// Where `name[:port]` or `[v6][:port]` leads; `None` when it is not a valid Host value.
fn destination(host: &[u8]) -> Option<Destination> {
    if let Some(rest) = host.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']')?;
        let (name, after) = rest.split_at(end);
        let is_valid = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
        return (is_valid && is_port(after.strip_prefix(b"]")?)).then_some(Destination::Control);
    }
    let labelled = host.split_at_checked(LABEL_LEN).and_then(|(label, rest)| Some((PodKey::of_label(label)?, rest)));
    // The label is valid as it is read.
    let rest = labelled.as_ref().map_or(host, |(_, rest)| rest);
    let end = memchr::memchr(b':', rest).unwrap_or(rest.len());
    let (name, port) = rest.split_at(end);
    if !name.iter().all(|byte| is_in_name(*byte)) || end == 0 && labelled.is_none() || !is_port(port) {
        return None;
    }
    match (labelled, name) {
        (Some((key, _)), [b'.', suffix, ..]) if *suffix != b'.' => Some(Destination::Pod(key)),
        _ => Some(Destination::Control),
    }
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// Whether it is nothing, or a colon and a port, which may be empty.
fn is_port(port: &[u8]) -> bool {
    match port.split_first() {
        None => true,
        Some((b':', digits)) => {
            let is_number = |digits| std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok());
            digits.is_empty() || digits.iter().all(u8::is_ascii_digit) && is_number(digits)
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "aebagbafaydqqcikbmga2dqpcaireeyuculbogazdinryhi6d4qa";

    fn ask(host: Option<&str>, authority: Option<&str>, may_be_missing: bool) -> Result<Destination, Fault> {
        let (host, authority) = (host.map(str::as_bytes), authority.map(str::as_bytes));
        admit(Named { host, authority, may_be_missing }).map(|admitted| admitted.destination)
    }

    #[test]
    fn names_go_where_they_belong() {
        let key: PodKey = LABEL.parse().unwrap();
        let pod = || Ok(Destination::Pod(Some(key)));
        let not_canonical = format!("{}b.localhost", &LABEL[..51]);
        let cases: &[(&str, Result<Destination, Fault>)] = &[
            (&format!("{LABEL}.localhost"), pod()),
            (&format!("{LABEL}.localhost:3000"), pod()),
            (&format!("{}.Example.COM", LABEL.to_uppercase()), pod()),
            (&format!("{LABEL}.example.com."), pod()),
            (&not_canonical, Ok(Destination::Pod(None))),
            (LABEL, Ok(Destination::Control)),
            (&format!("{LABEL}:3000"), Ok(Destination::Control)),
            (&format!("{LABEL}."), Ok(Destination::Control)),
            (&format!("www.{LABEL}.localhost"), Ok(Destination::Control)),
            (&format!("a{LABEL}.localhost"), Ok(Destination::Control)),
            (&format!("{}1.localhost", &LABEL[..51]), Ok(Destination::Control)),
            ("localhost:3000", Ok(Destination::Control)),
            ("[::1]:3000", Ok(Destination::Control)),
            ("", Err(Fault::BadHost)),
            (":80", Err(Fault::BadHost)),
            ("user@localhost", Err(Fault::BadHost)),
            ("local host", Err(Fault::BadHost)),
            ("a/b", Err(Fault::BadHost)),
            ("a,b", Err(Fault::BadHost)),
            ("localhost:port", Err(Fault::BadHost)),
            ("localhost:", Ok(Destination::Control)),
            ("localhost:65536", Err(Fault::BadHost)),
            ("localhost:+80", Err(Fault::BadHost)),
            ("[::1", Err(Fault::BadHost)),
            ("[::1]x", Err(Fault::BadHost)),
        ];
        for (host, expected) in cases {
            assert_eq!(&ask(Some(host), None, false), expected, "{host}");
        }
    }

    #[test]
    fn a_request_names_one_host_and_may_not_contradict_itself() {
        let control = Ok(Destination::Control);
        let table = [
            (None, None, false, Err(Fault::BadHost)),
            (None, None, true, control),
            (Some("A"), Some("a"), false, control),
            (Some("b"), Some("a"), false, Err(Fault::BadHost)),
            (None, Some("a"), false, Err(Fault::BadHost)),
            (None, Some("u@a"), true, Err(Fault::BadHost)),
        ];
        for (host, authority, may_be_missing, expected) in table {
            assert_eq!(ask(host, authority, may_be_missing), expected, "{host:?} {authority:?}");
        }
    }
}
