pub mod about;
pub mod clients;
pub mod cluster;
pub mod settings;
