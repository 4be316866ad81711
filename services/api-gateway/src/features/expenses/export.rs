//! `GET /admin/expenses/export`

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::web::Bytes;
use chrono::{DateTime, Utc};
use db::expenses::Claimed;
use db::{Db, DbResult};
use domain::clock::Stored;
use domain::{EmployeeId, ExpenseId, Tenant};
use futures_util::stream;
use garde::Validate;

use crate::error::ApiResult;
use crate::http::caller::Access;
use crate::http::endpoint::{Call, Endpoint};
use crate::http::input::{Field, Input, Moment, Parts, UuidText};
use crate::http::openapi::About;
use crate::http::rules;

/// Every claim of the organization as CSV, newest first.
///
/// It is read and sent in pieces, each in a transaction of its own, and no piece is read before the one before it is on
/// its way: however long the list and however slow the client, the gateway holds one piece and no connection, and a
/// client that goes away leaves nothing behind. A claim keeps its place, so each that was there at the beginning is
/// listed once.
pub struct Export;

/// Claims read at once.
const PIECE: i64 = 500;
const COLUMNS: &str =
    "id,employee_code,employee_name,amount,description,status,rejection_comment,submitted_at,reviewed_at";

impl Endpoint for Export {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/admin/expenses/export";
    const ACCESS: Access = Access::Admins;
    type Input = Whose;

    fn about() -> About {
        About::new("expenses", "exportExpenses", "Every claim as CSV, newest first")
            .note("Lines end in CR LF, the last one in nothing. Text that a spreadsheet would take for a formula begins with an apostrophe.")
            .text(200, "text/csv; charset=utf-8", "The claims.")
    }

    async fn handle(call: Call<Whose>) -> ApiResult<HttpResponse> {
        let mut reader =
            Reader { db: call.state.db.clone(), tenant: call.caller()?.tenant(), of: call.input.0, last: None };
        // The first piece before the status, so that whoever asks of a database that is away is told so.
        let mut first = COLUMNS.to_owned();
        let more = reader.next(&mut first).await?;
        let request_id = call.request_id.to_string();
        let rest = stream::try_unfold((more.then_some(reader), Some(first), request_id), next_piece);
        let name = format!("attachment; filename=\"expenses-{}.csv\"", call.state.clock.now().format("%Y-%m-%d"));
        Ok(HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/csv; charset=utf-8"))
            .insert_header((CONTENT_DISPOSITION, name))
            .streaming(rest))
    }
}

/// What is still to come: the reader, if there may be more to read, and a piece that is ready.
type Rest = (Option<Reader>, Option<String>, String);

async fn next_piece((mut reader, ready, request_id): Rest) -> DbResult<Option<(Bytes, Rest)>> {
    if let Some(piece) = ready {
        return Ok(Some((piece.into(), (reader, None, request_id))));
    }
    let mut piece = String::new();
    if let Some(open) = &mut reader {
        match open.next(&mut piece).await {
            Ok(true) => {}
            Ok(false) => reader = None,
            Err(error) => {
                // The answer breaks off, which a client notices: its end is never sent.
                tracing::error!(request_id, error.message = %error, "an export of expenses broke off");
                return Err(error);
            }
        }
    }
    Ok((!piece.is_empty()).then(|| (piece.into(), (reader, None, request_id))))
}

/// Reads on from claim to claim.
struct Reader {
    db: Db,
    tenant: Tenant,
    of: Option<EmployeeId>,
    last: Option<(DateTime<Utc>, ExpenseId)>,
}

impl Reader {
    /// Writes the next piece behind `text`; whether there may be more.
    async fn next(&mut self, text: &mut String) -> DbResult<bool> {
        let mut tx = self.db.tenant(self.tenant).await?;
        let claims = db::expenses::after(&mut tx, self.of, self.last, PIECE).await?;
        tx.commit().await?;
        claims.iter().for_each(|claim| write_line(text, claim));
        self.last = claims.last().map(|claim| (claim.expense.submitted_at, claim.expense.id));
        Ok(i64::try_from(claims.len()).is_ok_and(|read| read == PIECE))
    }
}

/// A claim's line, and the end of the line before it.
fn write_line(text: &mut String, Claimed { expense, employee_name, employee_code }: &Claimed) {
    let reviewed_at = expense.reviewed_at.map(|at| Stored(at).to_string()).unwrap_or_default();
    let comment = expense.rejection_comment.as_deref().unwrap_or_default();
    text.push_str("\r\n");
    for (place, value) in [
        &*expense.id.to_string(),
        employee_code,
        employee_name,
        &*expense.amount.to_string(),
        &expense.description,
        expense.status.as_str(),
        comment,
        &*Stored(expense.submitted_at).to_string(),
        &*reviewed_at,
    ]
    .into_iter()
    .enumerate()
    {
        if place > 0 {
            text.push(',');
        }
        write_value(text, value);
    }
}

/// A value as spreadsheets take it for text: what they would take for a formula gets an apostrophe (D16). None of ours
/// starts like one: ids, amounts above zero, words and times.
fn write_value(text: &mut String, value: &str) {
    // A carriage return alone ends a line, too, for many readers: unquoted it would begin a line of the author's own.
    let quoted = value.contains([',', '"', '\n', '\r']);
    if quoted {
        text.push('"');
    }
    if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        text.push('\'');
    }
    if quoted {
        for letter in value.chars() {
            if letter == '"' {
                text.push('"');
            }
            text.push(letter);
        }
        text.push('"');
    } else {
        text.push_str(value);
    }
}

/// Whose claims; everybody's without a word.
pub struct Whose(Option<EmployeeId>);

#[derive(Validate)]
#[garde(context(Moment))]
struct Query {
    #[garde(custom(rules::optional), custom(rules::uuid("Invalid UUID")))]
    employee_id: Field<UuidText>,
}

impl Input for Whose {
    const READS_BODY: bool = false;

    fn read(parts: &Parts<'_>) -> ApiResult<Self> {
        let query = Query { employee_id: parts.query().id("employee_id") };
        parts.judge("querystring", &query, &["employee_id"])?;
        Ok(Self(query.employee_id.value().and_then(|id| id.0).map(EmployeeId::from)))
    }
}

#[cfg(test)]
mod tests {
    use super::write_value;

    #[test]
    fn formulas_are_defused_and_separators_quoted() {
        for (value, written) in [
            ("Fuel", "Fuel"),
            ("", ""),
            ("Fuel, toll", "\"Fuel, toll\""),
            ("a \"big\" lunch", "\"a \"\"big\"\" lunch\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("+49", "'+49"),
            ("-5", "'-5"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("\rx", "\"'\rx\""),
            ("x\r=1+1", "\"x\r=1+1\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("'quoted", "'quoted"),
            (" =1", " =1"),
            ("5-3", "5-3"),
        ] {
            let mut text = String::new();
            write_value(&mut text, value);
            assert_eq!(text, written, "{value:?}");
        }
    }
}
