//! Engines without a runtime: everything that clients and other cores can do to them, in every order that
//! chance comes up with. A failure prints its seed.

mod bounds;
mod cores;
mod durable;
mod filling;
mod flood;
mod flush;
mod lab;
mod large_transactions;
mod limits;
mod model;
mod order;
mod portions;
mod pubsub;
mod scan;
mod settings;
mod split;
mod swap;
mod talk;
mod transactions;
mod world;
