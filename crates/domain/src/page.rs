//! Pages of a list.

use serde::Serialize;
use utoipa::ToSchema;

/// The page a caller asks for; both numbers are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Which page, from 1.
    pub page: i64,
    /// Rows a page.
    pub limit: i64,
}

impl PageRequest {
    /// Rows before this page. Saturates instead of overflowing: a page past the end is empty, not an error.
    #[must_use]
    pub const fn offset(self) -> i64 {
        (self.page - 1).saturating_mul(self.limit)
    }
}

/// What a reply says about its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pagination {
    /// The page asked for.
    pub page: i64,
    /// Rows a page.
    pub limit: i64,
    /// Rows in all, exact.
    pub total: i64,
    /// `ceil(total / limit)`; 0 when there are none.
    pub total_pages: i64,
}

impl Pagination {
    /// The figures of `request` over `total` rows.
    #[must_use]
    pub const fn new(request: PageRequest, total: i64) -> Self {
        let total_pages = total / request.limit + (total % request.limit != 0) as i64;
        Self { page: request.page, limit: request.limit, total, total_pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_up() {
        let pages = |total, limit| Pagination::new(PageRequest { page: 1, limit }, total).total_pages;
        assert_eq!([pages(0, 20), pages(1, 20), pages(20, 20), pages(21, 20)], [0, 1, 1, 2]);
    }

    #[test]
    fn a_page_far_past_the_end_has_an_offset_too() {
        assert_eq!(PageRequest { page: i64::MAX, limit: 100 }.offset(), i64::MAX);
    }
}
