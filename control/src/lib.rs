//! The office: what is uploaded, what is paid, what runs, and until when. Knows nothing of the front door.
//!
//! | room | what is in it |
//! |---|---|
//! | `manifest` | untrusted bytes -> manifest, hash, what to run |
//! | `pay` | price, payments, what each may still be used for |
//! | `capacity` | who has which part of the machine |
//! | `pods` | a pod's life: start, extension, expiry, exit, recovery |
//! | `orders` | a paid request, from its Pay-Token to its receipt |
//! | `peers` | other hosts |
//! | `api` | the HTTP of it |
//! | `store` | what must survive, in SQLite |
//! | `html` | pages in one file, and what they may do |
//! | `house` | what the operator may change while the host runs |
//! | `machines` | the sizes of pods this host sells |
//! | `factor` | exact factors |
//! | `clock` | time as an input |
#![forbid(unsafe_code)]

pub mod api;
pub mod capacity;
pub mod clock;
pub mod factor;
pub mod house;
pub mod html;
pub mod machines;
pub mod manifest;
pub mod orders;
pub mod pay;
pub mod peers;
pub mod pods;
pub mod store;
