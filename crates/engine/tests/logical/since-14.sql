SET search_path = other;
CREATE FUNCTION atomic(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC
  SELECT 1;
  SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END;
END;
CREATE PROCEDURE atomic_proc() LANGUAGE sql BEGIN ATOMIC
  INSERT INTO ident (t) VALUES ('begin; end');
END;
CREATE TABLE compressed (t text COMPRESSION pglz);
INSERT INTO compressed VALUES (repeat('x', 10000));
