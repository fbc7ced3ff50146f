//! Money: what run time costs, who has paid what, and what each payment may still be used for.
//!
//! | room | what is in it |
//! |---|---|
//! | `price` | the price of run time, in exact integers (pure) |
//! | `tariff` | that price as it is now |
//! | `token` | Pay-Tokens, and the one request each is bound to |
//! | `book` | every payment's state and the sums that must agree (pure) |
//! | `desk` | the book over the store: what is said is durable |

mod book;
mod desk;
mod price;
mod tariff;
mod token;

pub use book::{Denied, Limits, NotPaid, Place, Standing, SumsDisagree};
pub use desk::{Desk, DeskError, asset_of};
pub use price::{Asset, BadCost, CostPerMonth, PriceTooLarge, decimal, price};
pub use tariff::Tariff;
pub use token::{BadToken, Binding, PayToken, TokenHash};
