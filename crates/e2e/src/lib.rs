//! Journeys through the product as it ships: the built programs, started as processes, on real PostgreSQL and Redis.
//!
//! There is nothing here but tests. They run the programs that lie beside them in the target folder, so build the whole
//! workspace (as `cargo xtask test` does) before running this package alone.
