//! Whom is believed, counted and connected to, and every number that bounds something.

pub(crate) mod admit;
pub(crate) mod gate;
pub(crate) mod limits;
pub(crate) mod trust;
pub(crate) mod via;
