//! The table in the kernel: installed, removed, read back and compared.
//!
//! Kernel versions list a table differently. So the table found is compared with the same kernel's listing of the same table, freshly
//! installed in a network namespace of its own ([`reference()`]); only handles and counts are ignored.

use std::{io, thread};

use codiusd_net::netlink::{Family, Message, Socket, attributes};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
};

use super::{encode, sources, table::Table};

/// Attributes of a rule's expressions, and of name and data of each.
const EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;
const USER_DATA: u16 = 7;
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const GENERATION: u16 = 1;
const SET_ELEMENTS: u16 = 3;
/// How often a read is repeated if its subject changes meanwhile.
const TRIES_MAX: usize = 16;

/// A kind of object in a table: how to request it, where its names are, and which attributes identify it.
struct Kind {
    question: i32,
    table: u16,
    chain: Option<u16>,
    name: u16,
    says: &'static [u16],
    called: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { question: libc::NFT_MSG_GETTABLE, table: 1, chain: None, name: 1, says: &[1, 2], called: "table" },
    Kind { question: libc::NFT_MSG_GETSET, table: 1, chain: None, name: 2, says: &[2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 17, 18], called: "set" },
    Kind { question: libc::NFT_MSG_GETCHAIN, table: 1, chain: None, name: 3, says: &[3, 4, 5, 7, 10], called: "chain" },
    Kind { question: libc::NFT_MSG_GETRULE, table: 1, chain: Some(2), name: 7, says: &[2, 4, 7], called: "rule" },
];

/// An object in a table, as listed by the kernel.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Its description for messages.
    pub(super) called: String,
    /// The row a rule comes from, by its comment.
    pub(super) row: Option<String>,
    /// Packets a rule has stopped.
    pub(super) packets: u64,
    /// Everything that identifies it.
    identity: Vec<u8>,
}

pub(super) const FAMILY_INET: u8 = 1;
pub(super) const FAMILY_BRIDGE: u8 = 7;

/// A table's key in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableId {
    pub(super) family: u8,
    pub(super) name: String,
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.family == FAMILY_BRIDGE { "bridge" } else { "inet" };
        write!(f, "table {family} {}", self.name)
    }
}

/// A description of a table that can be installed.
pub(super) trait Rules: std::fmt::Debug + Clone + Send + 'static {
    fn id(&self) -> TableId;
    /// The messages that install it.
    fn batch(&self) -> Vec<Message>;
}

impl Rules for Table {
    fn id(&self) -> TableId {
        TableId { family: FAMILY_INET, name: self.name.clone() }
    }

    fn batch(&self) -> Vec<Message> {
        encode::install(self)
    }
}

/// Installs the table, replacing any of its name, in one transaction.
pub(super) fn install(rules: &impl Rules) -> io::Result<()> {
    open()?.transact(rules.batch())
}

/// Removes the table of that name; succeeds if there is none.
pub(super) fn remove(table: &TableId) -> io::Result<()> {
    open()?.transact(encode::remove(table))
}

/// Number that changes with every change of any table on this machine.
pub(super) fn generation() -> io::Result<Vec<u8>> {
    let replies = open()?.ask(encode::message(FAMILY_INET, libc::NFT_MSG_GETGEN, 0))?;
    let body = replies.first().map(|reply| family_free(reply)).unwrap_or_default();
    Ok(attributes(body).find(|(kind, _)| *kind == GENERATION).map(|(_, value)| value.to_vec()).unwrap_or_default())
}

/// All objects in the table of that name; empty if there is no such table.
///
/// The objects are requested one kind at a time. They are consistent if no table has changed meanwhile, or if a second read returns the
/// same: on a machine whose firewall changes all the time there may be no quiet moment.
pub(super) fn read(table: &TableId) -> io::Result<Vec<Part>> {
    let mut earlier: Option<Vec<Part>> = None;
    for _ in 0..TRIES_MAX {
        let before = generation()?;
        match read_once(table) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(parts) => {
                if generation()? == before || earlier.as_ref().is_some_and(|earlier| are_same(earlier, &parts)) {
                    return Ok(parts);
                }
                earlier = Some(parts);
            }
        }
    }
    Err(io::Error::other("the firewall's tables change all the time"))
}

fn read_once(table: &TableId) -> io::Result<Vec<Part>> {
    let parts = KINDS.iter().map(|kind| read_kind(kind, table)).chain([elements(table)]);
    Ok(parts.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn are_same(one: &[Part], other: &[Part]) -> bool {
    one.iter().map(|part| &part.identity).eq(other.iter().map(|part| &part.identity))
}

/// How the kernel would list the table right after its installation.
pub(super) fn reference(rules: &impl Rules) -> io::Result<Vec<Part>> {
    let rules = rules.clone();
    let elsewhere = move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        install(&rules)?;
        read(&rules.id())
    };
    thread::spawn(elsewhere).join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// The differences between `found` and `wanted`, as text; empty if there are none.
pub(super) fn differences(wanted: &[Part], found: &[Part]) -> Vec<String> {
    if found.is_empty() {
        return vec!["the table isn't there".to_owned()];
    }
    let mut left: Vec<&Part> = found.iter().collect();
    let mut different: Vec<String> = Vec::new();
    for part in wanted {
        match left.iter().position(|other| other.identity == part.identity) {
            Some(index) => drop(left.remove(index)),
            None => different.push(format!("{} is missing or changed", part.called)),
        }
    }
    different.extend(left.iter().map(|part| format!("{} isn't ours", part.called)));
    if different.is_empty() && !are_same(wanted, found) {
        different.push("its rules are in another order".to_owned());
    }
    different
}

fn open() -> io::Result<Socket> {
    Socket::open(Family::NetFilter)
}

/// The data after `struct nfgenmsg`.
fn family_free(reply: &[u8]) -> &[u8] {
    reply.get(4..).unwrap_or_default()
}

/// The elements of a source table's set, sorted: the sets of other tables are filled by the kernel.
fn elements(table: &TableId) -> io::Result<Vec<Part>> {
    if table.family != FAMILY_BRIDGE {
        return Ok(Vec::new());
    }
    let question = encode::message(table.family, libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP).text(1, &table.name).text(2, sources::SET);
    let replies = match open()?.ask(question) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let lists = replies.iter().flat_map(|reply| attributes(family_free(reply))).filter(|(kind, _)| *kind == SET_ELEMENTS);
    let mut all: Vec<&[u8]> = lists.flat_map(|(_, list)| attributes(list)).map(|(_, element)| element).collect();
    all.sort_unstable();
    let identity = [b"elements", all.concat().as_slice()].concat();
    Ok(vec![Part { called: format!("what is in set {}", sources::SET), row: None, packets: 0, identity }])
}

fn read_kind(kind: &Kind, table: &TableId) -> io::Result<Vec<Part>> {
    let question: Message = encode::message(table.family, kind.question, libc::NLM_F_DUMP).text(1, &table.name);
    let replies = match open()?.ask(question) {
        // Some kinds can be requested only of an existing table.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let ours = replies.iter().filter(|reply| reply.first() == Some(&table.family));
    let parts: Vec<Part> = ours.filter_map(|reply| part(kind, &table.name, reply)).collect();
    // While a table is replaced the kernel may list both, and doesn't always report the change.
    let is_being_replaced = kind.question == libc::NFT_MSG_GETTABLE && parts.len() > 1;
    if is_being_replaced { Err(io::ErrorKind::Interrupted.into()) } else { Ok(parts) }
}

fn part(kind: &Kind, table: &str, reply: &[u8]) -> Option<Part> {
    let all: Vec<(u16, &[u8])> = attributes(family_free(reply)).collect();
    let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    if value(kind.table).map(text) != Some(table.to_owned()) {
        return None;
    }
    let row = kind.chain.and_then(|_| comment(value(USER_DATA)?));
    let called = match kind.chain.and_then(value).map(text) {
        Some(chain) => format!("rule {:?} of chain {chain}", row.as_deref().unwrap_or("(unnamed)")),
        None => format!("{} {}", kind.called, value(kind.name).map(text).unwrap_or_default()),
    };
    let (mut identity, mut packets) = (kind.called.as_bytes().to_vec(), 0);
    for (attribute, value) in all.iter().filter(|(attribute, _)| kind.says.contains(attribute)) {
        identity.extend_from_slice(&attribute.to_ne_bytes());
        if kind.chain.is_some() && *attribute == EXPRESSIONS {
            packets = counted(value, &mut identity);
        } else {
            identity.extend_from_slice(&value.len().to_ne_bytes());
            identity.extend_from_slice(value);
        }
    }
    Some(Part { called, row, packets, identity })
}

/// Appends a rule's expressions to `identity`, without the value of its counter, which is returned.
fn counted(expressions: &[u8], identity: &mut Vec<u8>) -> u64 {
    let mut packets = 0;
    for (_, expression) in attributes(expressions) {
        let part = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted).map(|(_, value)| value).unwrap_or_default();
        let (name, mut data) = (part(EXPRESSION_NAME), part(EXPRESSION_DATA));
        if name == b"counter\0" {
            let count = attributes(data).find(|(kind, _)| *kind == COUNTER_PACKETS).and_then(|(_, count)| count.first_chunk().copied());
            packets += count.map_or(0, u64::from_be_bytes);
            data = &[];
        }
        for piece in [name, data] {
            identity.extend_from_slice(&piece.len().to_ne_bytes());
            identity.extend_from_slice(piece);
        }
    }
    packets
}

/// The comment in a rule's user data: type 0, length, NUL-terminated text.
fn comment(user_data: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = user_data else { return None };
    Some(text(rest.get(..usize::from(*length))?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// A base chain of any table that gets the same packets as ours.
#[derive(Debug)]
pub(super) struct OtherChain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) hook: u32,
    pub(super) drops: bool,
    /// For the family `netdev`: the links it is attached to.
    pub(super) devices: Vec<String>,
}

/// Base chains of all tables but ours, of all families.
pub(super) fn other_chains(ours: &[TableId]) -> io::Result<Vec<OtherChain>> {
    let mut question = Err(io::ErrorKind::Interrupted.into());
    for _ in 0..TRIES_MAX {
        question = open()?.ask(encode::any_family(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP));
        if !question.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            break;
        }
    }
    let be32 = |value: &[u8]| value.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
    let chain = |reply: &Vec<u8>| {
        let all: Vec<(u16, &[u8])> = attributes(family_free(reply)).collect();
        let value = |wanted: u16| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let place: Vec<(u16, &[u8])> = attributes(value(HOOK)?).collect();
        let hook = place.iter().find(|(kind, _)| *kind == HOOK_NUMBER).map(|(_, number)| be32(number))?;
        let named = place.iter().flat_map(|(kind, value)| match *kind {
            HOOK_DEVICE => vec![text(value)],
            HOOK_DEVICES => attributes(value).map(|(_, name)| text(name)).collect(),
            _ => Vec::new(),
        });
        let drops = value(5).is_some_and(|policy| be32(policy) == 0);
        Some(OtherChain { family: *reply.first()?, table: text(value(1)?), chain: text(value(3)?), hook, drops, devices: named.collect() })
    };
    let found = question?.iter().filter_map(chain).collect::<Vec<_>>();
    Ok(found.into_iter().filter(|chain| !ours.iter().any(|table| table.family == chain.family && table.name == chain.table)).collect())
}

#[cfg(test)]
mod tests;
