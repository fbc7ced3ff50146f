//! Encodes a table as nf_tables messages (linux/netfilter/nf_tables.h).

use codiusd_net::{
    Ipv4Cidr,
    netlink::Message,
    ports::{Ports, Protocol},
};
use nix::libc;

use super::{
    kernel::{FAMILY_INET, TableId},
    policy::{Fate, Links},
    table::{BURST_PARTS, BURST_SECONDS, Chain, Hook, METER_SIZE, Match, Meter, Rule, Side, Table},
};

const NFTABLES: u16 = 10;
const FAMILY_UNSPECIFIED: u8 = 0;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
pub(super) const CMP_EQUAL: u32 = 0;
pub(super) const CMP_UNEQUAL: u32 = 1;
const CMP_AT_MOST: u32 = 3;
const CMP_AT_LEAST: u32 = 5;
pub(super) const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
pub(super) const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const PORT_DESTINATION: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const CT_STATE: u32 = 0;
/// Established and related.
const CT_KNOWN: u32 = 0b110;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_DROP: u32 = 0;
pub(super) const VERDICT_ACCEPT: u32 = 1;
const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
/// nft's number for the type of a set's keys.
const TYPE_IPV4_ADDRESS: u32 = 7;
const DYNSET_ADD: u32 = 0;
const DYNSET_UPDATE: u32 = 1;
/// The unit of a limit.
const PACKETS: u32 = 0;
const BYTES: u32 = 1;
/// Matches above the limit rather than below.
const OVER: u32 = 1;
const FIB_SOURCE: u32 = 1;
const FIB_INPUT: u32 = 8;
const FIB_PRESENT: u32 = 32;
const FIB_RESULT_LINK: u32 = 1;
/// ICMP or ICMPv6, depending on the packet: administratively prohibited.
const REJECT_ICMP: u32 = 2;
const REJECT_PROHIBITED: u8 = 3;
/// The type of a comment in a rule's user data.
const COMMENT: u8 = 0;
/// Longest comment nft shows.
const COMMENT_BYTES_MAX: usize = 128;

/// The batch that makes the kernel have exactly this table, replacing any of its name. The kernel applies it atomically.
pub(super) fn install(table: &Table) -> Vec<Message> {
    let mut batch = gone(FAMILY_INET, &table.name);
    batch.push(named(libc::NFT_MSG_NEWTABLE, &table.name));
    batch.extend((1..).zip(&table.meters).map(|(id, meter)| new_meter(&table.name, id, *meter)));
    for chain in &table.chains {
        batch.push(new_chain(&table.name, chain));
        batch.extend(chain.rules.iter().map(|rule| new_rule(&table.name, chain.hook, rule)));
    }
    batch.push(end());
    batch
}

/// The batch that removes the table.
pub(super) fn remove(table: &TableId) -> Vec<Message> {
    let mut batch = gone(table.family, &table.name);
    batch.push(end());
    batch
}

/// Creates the table before deleting it, because deleting a missing table is an error.
pub(super) fn gone(family: u8, table: &str) -> Vec<Message> {
    let about = |kind| change_in(family, kind).text(1, table);
    vec![edge(BATCH_BEGIN), about(libc::NFT_MSG_NEWTABLE), about(libc::NFT_MSG_DELTABLE)]
}

/// The end of a batch.
pub(super) fn end() -> Message {
    edge(BATCH_END)
}

/// `struct nfgenmsg` of a batch's begin and end, which name the subsystem.
fn edge(kind: u16) -> Message {
    let subsystem = NFTABLES.to_be_bytes();
    Message::new(kind, 0, &[FAMILY_UNSPECIFIED, 0, subsystem[0], subsystem[1]])
}

/// A request to nf_tables.
pub(super) fn message(family: u8, kind: i32, flags: i32) -> Message {
    let kind = (NFTABLES << 8) | u16::try_from(kind).unwrap_or_default();
    Message::new(kind, flags, &[family, 0, 0, 0])
}

/// A request about all families.
pub(super) fn any_family(kind: i32, flags: i32) -> Message {
    message(FAMILY_UNSPECIFIED, kind, flags)
}

/// A change in a table of a family.
pub(super) fn change_in(family: u8, kind: i32) -> Message {
    message(family, kind, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_APPEND)
}

fn change(kind: i32) -> Message {
    change_in(FAMILY_INET, kind)
}

fn named(kind: i32, table: &str) -> Message {
    change(kind).text(1, table)
}

fn new_meter(table: &str, id: u32, meter: Meter) -> Message {
    let timeout = if meter.forgotten_seconds.is_some() { SET_TIMEOUT } else { 0 };
    let set = change(libc::NFT_MSG_NEWSET)
        .text(1, table)
        .text(2, meter.name)
        .be32(3, SET_DYNAMIC | timeout)
        .be32(4, TYPE_IPV4_ADDRESS)
        .be32(5, 4) // bytes of a key
        .nest(9, &[], |description| description.be32(1, METER_SIZE))
        .be32(10, id);
    match meter.forgotten_seconds {
        Some(seconds) => set.be64(11, u64::from(seconds) * 1000),
        None => set,
    }
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    let (kind, priority) = chain.hook.kind();
    change(libc::NFT_MSG_NEWCHAIN)
        .text(1, table)
        .text(3, chain.hook.name())
        .nest(4, &[], |place| place.be32(1, hook).be32(2, priority.cast_unsigned()))
        .be32(5, VERDICT_ACCEPT)
        .text(7, kind)
}

fn new_rule(table: &str, hook: Hook, rule: &Rule) -> Message {
    change(libc::NFT_MSG_NEWRULE)
        .text(1, table)
        .text(2, hook.name())
        .nest(4, &[], |list| {
            let list = rule.matches.iter().fold(list, add_match);
            add_fate(list, rule.fate)
        })
        .attr(7, &comment(rule.row))
}

pub(super) fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(COMMENT_BYTES_MAX)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[COMMENT, length], text, &[0]].concat()
}

pub(super) fn expression(list: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    list.nest(1, &[], |element| element.text(1, name).nest(2, &[], fill))
}

fn add_match(list: Message, condition: &Match) -> Message {
    match condition {
        Match::From(links) => compare(meta(list, META_INPUT_NAME), CMP_EQUAL, &link_name(links)),
        Match::To(links) => compare(meta(list, META_OUTPUT_NAME), CMP_EQUAL, &link_name(links)),
        Match::ToOther(links) => compare(meta(list, META_OUTPUT_NAME), CMP_UNEQUAL, &link_name(links)),
        Match::Established => {
            let state = expression(list, "ct", |ct| ct.be32(1, REGISTER).be32(2, CT_STATE));
            compare(mask(state, CT_KNOWN.to_ne_bytes()), CMP_UNEQUAL, &[0; 4])
        }
        Match::Ipv6 => compare(meta(list, META_FAMILY), CMP_EQUAL, &[NFPROTO_IPV6]),
        Match::ForgedSource => {
            let flags = FIB_SOURCE | FIB_INPUT | FIB_PRESENT;
            compare(expression(list, "fib", |fib| fib.be32(1, REGISTER).be32(2, FIB_RESULT_LINK).be32(3, flags)), CMP_EQUAL, &[0; 4])
        }
        Match::Source(subnet) => in_subnet(list, IPV4_SOURCE, *subnet),
        Match::Destination(subnet) => in_subnet(list, IPV4_DESTINATION, *subnet),
        Match::Ports(ports) => add_ports(list, *ports),
        Match::OtherProtocols => [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP]
            .into_iter()
            .fold(list, |list, known| compare(meta(list, META_PROTOCOL), CMP_UNEQUAL, &[u8::try_from(known).unwrap_or_default()])),
        Match::Connections { meter, pod, max } => {
            add_meter(list, meter, *pod, DYNSET_ADD, "connlimit", |limit| limit.be32(1, *max).be32(2, OVER))
        }
        Match::Rate { meter, pod, max } => add_meter(list, meter, *pod, DYNSET_UPDATE, "limit", |limit| {
            limit.be64(1, u64::from(*max)).be64(2, 1).be32(3, max.saturating_mul(BURST_SECONDS)).be32(4, PACKETS).be32(5, OVER)
        }),
        Match::Bytes { meter, pod, max } => add_meter(list, meter, *pod, DYNSET_UPDATE, "limit", |limit| {
            limit.be64(1, u64::from(*max)).be64(2, 1).be32(3, max / BURST_PARTS).be32(4, BYTES).be32(5, OVER)
        }),
    }
}

/// The name as compared: a prefix without its end, a full name with the zeros that follow it in the kernel.
fn link_name(links: &Links) -> Vec<u8> {
    match links {
        Links::Prefix(prefix) => prefix.as_bytes().to_vec(),
        Links::Bridge(name) => {
            let mut name = name.as_bytes().to_vec();
            name.resize(libc::IFNAMSIZ, 0);
            name
        }
    }
}

pub(super) fn meta(list: Message, key: u32) -> Message {
    expression(list, "meta", |meta| meta.be32(1, REGISTER).be32(2, key))
}

pub(super) fn compare(list: Message, operator: u32, with: &[u8]) -> Message {
    expression(list, "cmp", |cmp| cmp.be32(1, REGISTER).be32(2, operator).nest(3, &[], |data| data.attr(DATA_VALUE, with)))
}

fn mask(list: Message, mask: [u8; 4]) -> Message {
    expression(list, "bitwise", |bits| {
        bits.be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nest(4, &[], |data| data.attr(DATA_VALUE, &mask))
            .nest(5, &[], |data| data.attr(DATA_VALUE, &[0; 4]))
    })
}

pub(super) fn load(list: Message, header: u32, offset: u32, length: u32) -> Message {
    expression(list, "payload", |load| load.be32(1, REGISTER).be32(2, header).be32(3, offset).be32(4, length))
}

fn load_address(list: Message, offset: u32) -> Message {
    load(compare(meta(list, META_FAMILY), CMP_EQUAL, &[NFPROTO_IPV4]), NETWORK_HEADER, offset, 4)
}

fn in_subnet(list: Message, offset: u32, subnet: Ipv4Cidr) -> Message {
    let loaded = load_address(list, offset);
    // nft would show a mask of ones as an explicit condition.
    let loaded = if subnet.prefix == 32 { loaded } else { mask(loaded, subnet.mask().to_be_bytes()) };
    compare(loaded, CMP_EQUAL, &subnet.address(0).octets())
}

fn add_ports(list: Message, ports: Ports) -> Message {
    let protocol = match ports.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let list = compare(meta(list, META_PROTOCOL), CMP_EQUAL, &[u8::try_from(protocol).unwrap_or_default()]);
    let loaded = load(list, TRANSPORT_HEADER, PORT_DESTINATION, 2);
    if ports.first == ports.last {
        return compare(loaded, CMP_EQUAL, &ports.first.to_be_bytes());
    }
    compare(compare(loaded, CMP_AT_LEAST, &ports.first.to_be_bytes()), CMP_AT_MOST, &ports.last.to_be_bytes())
}

/// Looks the pod's address up in the meter, with the state of `kind` per address.
fn add_meter(list: Message, meter: &str, pod: Side, operation: u32, kind: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    let offset = match pod {
        Side::Source => IPV4_SOURCE,
        Side::Destination => IPV4_DESTINATION,
    };
    expression(load_address(list, offset), "dynset", |dynset| {
        dynset.text(1, meter).be32(3, operation).be32(4, REGISTER).nest(7, &[], |each| each.text(1, kind).nest(2, &[], fill))
    })
}

pub(super) fn add_fate(list: Message, fate: Fate) -> Message {
    let verdict = |list, code| {
        expression(list, "immediate", |data| {
            data.be32(1, VERDICT_REGISTER).nest(2, &[], |value| value.nest(DATA_VERDICT, &[], |verdict| verdict.be32(VERDICT_CODE, code)))
        })
    };
    match fate {
        Fate::Pass => verdict(list, VERDICT_ACCEPT),
        Fate::Drop => verdict(counter(list), VERDICT_DROP),
        Fate::Reject => expression(counter(list), "reject", |reject| reject.be32(1, REJECT_ICMP).attr(2, &[REJECT_PROHIBITED])),
        Fate::Masquerade => expression(list, "masq", |nothing| nothing),
    }
}

fn counter(list: Message) -> Message {
    expression(list, "counter", |counter| counter.be64(1, 0).be64(2, 0))
}
