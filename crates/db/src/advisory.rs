//! Locks on a number, for what has no row to lock.

#[diesel::declare_sql_function]
extern "SQL" {
    /// Held until the transaction ends.
    fn pg_advisory_xact_lock(key: diesel::sql_types::BigInt) -> diesel::sql_types::Text;
}
