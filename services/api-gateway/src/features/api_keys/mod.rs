//! API keys: how programs call. A key is an administrator's, as far as its scopes go, and is shown once.
//!
//! Keys are people's business: no key makes, changes or lists keys.

mod create;
mod delete;
mod list;
mod update;

use domain::api_key::{Scope, Scopes};

use crate::error::{ApiError, ApiResult};
use crate::http::endpoint::Routes;
use crate::http::input::{Field, Word, Words};

/// The feature's routes.
pub fn routes(routes: &mut Routes<'_>) {
    routes.add::<create::Create>().add::<list::List>().add::<update::Update>().add::<delete::Delete>();
}

const NOT_FOUND: ApiError = ApiError::NotFound("API key not found");

/// The words a scope can be.
struct ScopeWords;

impl Words for ScopeWords {
    const WORDS: &'static [&'static str] = &["read:employees", "read:sessions", "write:expenses", "admin:all"];
}

/// A list of scopes, as it comes.
type ScopeItems = Vec<Field<Word<ScopeWords>>>;

/// The scopes a body names; an empty list when it names none.
fn named(list: Field<ScopeItems>) -> Vec<Scope> {
    let words = list.into_value().into_iter().flatten().filter_map(Field::into_value);
    words.filter_map(|word| Scope::parse(&word.0)).collect()
}

/// The same, if they go together.
fn together(scopes: &[Scope]) -> ApiResult<Scopes> {
    Scopes::new(scopes.iter().copied()).map_err(|error| ApiError::Refused(error.to_string()))
}
