DROP TABLE sign_in_notices;
