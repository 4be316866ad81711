DROP TABLE employee_expense_totals;
DROP TABLE expenses;
DROP FUNCTION app.move_expense_totals();
DROP FUNCTION app.add_expense_totals();
DROP TYPE expense_status;
