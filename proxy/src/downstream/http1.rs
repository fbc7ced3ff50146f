//! HTTP/1.1 of clients, in one task per connection.
//!
//! | file | what it does |
//! |---|---|
//! | `serve` | the loop of a connection: wait, read a head, answer it, again |
//! | `clock` | which wait it is in, and since when |
//! | `answer` | one request, from its plan to the last byte of its answer |
//! | `client` | the client's side of it |
//! | `tunnel` | what is left when a request has switched protocols |

mod answer;
mod client;
mod clock;
pub(crate) mod serve;
mod tunnel;
