//! Money: the price of run time, payments, and what each payment can still be used for.
//!
//! | module | what is in it |
//! |---|---|
//! | `price` | the price of run time, in exact integers (pure) |
//! | `tariff` | that price as it is now |
//! | `pay_token` | Pay-Tokens, and the one request each is bound to |
//! | `tables` | invoices, credits and totals in the database |
//! | `invoices` | every invoice's state and the sums that must agree (pure) |
//! | `payments` | the invoices, backed by the database: a credit is durable before it is acknowledged |

mod invoices;
mod pay_token;
mod payments;
mod price;
mod tables;
mod tariff;

pub use invoices::{CapacityNeed, InvoiceStatus, Limits, NotPaid, SumsDisagree, TokenReused};
pub use pay_token::{BadToken, Binding, PayToken, TokenHash};
pub use payments::{Payments, PaymentsError, asset_of};
pub use price::{Asset, BadCost, CostPerMonth, PriceTooLarge, decimal, price};
#[cfg(test)]
pub(crate) use tables::MoneyChange;
pub use tables::{CreditRow, InvoiceRow, InvoiceState, Totals};
pub(crate) use tables::{load_invoices, load_totals};
pub use tariff::Tariff;
