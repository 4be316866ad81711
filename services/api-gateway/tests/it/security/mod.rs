//! What somebody with bad intentions would try, by name.

mod abuse;
mod api_key_guessing;
mod audit_tampering;
mod ssrf;
mod streams;
