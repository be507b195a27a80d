CREATE SCHEMA "sch""ema
line" AUTHORIZATION "Ow'ner";
CREATE SCHEMA other;
SET search_path = "sch""ema
line", public;
CREATE TYPE mood AS ENUM ('sad', 'o''k', 'happy');
CREATE TYPE pair AS (a int, "b ""c""" text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "ta'ble ""x""
-- y; \! z" (id serial PRIMARY KEY, "co;l ""umn""" text DEFAULT E'it''s; \\', m mood, p pair, d positive, a int[], dropped int);
ALTER TABLE "ta'ble ""x""
-- y; \! z" DROP COLUMN dropped;
INSERT INTO "ta'ble ""x""
-- y; \! z" ("co;l ""umn""", m, p, d, a) VALUES (E'\\.', 'o''k', ROW(1, E'x\ty'), 1, '{1,NULL,3}'), (E'a\nb\tc\\N\r', NULL, NULL, NULL, NULL), ('', 'sad', ROW(NULL, ''), 2, '{}');
ALTER TABLE "ta'ble ""x""
-- y; \! z" OWNER TO "päge";
GRANT SELECT ("co;l ""umn"""), UPDATE (m) ON "ta'ble ""x""
-- y; \! z" TO reader;
COMMENT ON COLUMN "ta'ble ""x""
-- y; \! z".m IS E'\n--\n-- Name: x; Type: TABLE; Schema: public; Owner: postgres\n--\n\n\\! touch /tmp/never\n\\connect postgres\nDROP TABLE x;\n';
CREATE TABLE kinds (b bytea, f float8, r real, n numeric, m money, t timestamptz, i interval, j json, jb jsonb, bits bit varying, g point, v tsvector, rg int4range, u uuid, c "char", o oid);
INSERT INTO kinds VALUES (decode('00ff0a5c09', 'hex'), 'NaN', '1e-40', 'NaN', '-12345678.90', 'infinity', '-1 year 2 mons 3 days 04:05:06.7', '{"a": "\u0041\\n"}', '{"b": [1, null]}', B'10101', '(1.5,-2)', 'a:1 b:2', '[1,5)', 'b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11', 'x', 4294967295),
  (NULL, 0.1, 0.1, 123456789012345678901234567890.1234567890, '0', '0044-03-15 BC', '0', NULL, NULL, B'', NULL, NULL, 'empty', NULL, '', 0), ('', '-Infinity', 'Infinity', 0, '1', '2026-11-27 09:00:00.123456+02', '1 mon', '[]', '[]', B'0', '(0,0)', '', '(,)', NULL, NULL, 1);
CREATE TABLE many AS SELECT i, md5(i::text) AS t, repeat(md5((i * 7)::text), 4) AS u FROM generate_series(1, 120000) i;
CREATE INDEX many_i ON many (i);
CREATE UNIQUE INDEX many_expr ON many ((lower(t)), i DESC) WHERE i > 10;
CREATE TABLE empty (a int);
CREATE TABLE none ();
INSERT INTO none DEFAULT VALUES;
INSERT INTO none DEFAULT VALUES;
CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS a;
CREATE TABLE parent (a int CHECK (a <> 13), b text);
CREATE TABLE child (c int) INHERITS (parent);
INSERT INTO parent VALUES (1, 'parent');
INSERT INTO child VALUES (2, 'child', 3), (4, 'child', 5);
CREATE TABLE one (id int PRIMARY KEY, two int);
CREATE TABLE two (id int PRIMARY KEY, one int REFERENCES one, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO one SELECT i, i FROM generate_series(1, 500) i;
INSERT INTO two SELECT i, i, i FROM generate_series(1, 500) i;
ALTER TABLE one ADD CONSTRAINT to_two FOREIGN KEY (two) REFERENCES two DEFERRABLE;
ALTER TABLE two CLUSTER ON two_pkey;
ALTER TABLE two REPLICA IDENTITY USING INDEX two_pkey;
CREATE TABLE span (r int4range, EXCLUDE USING gist (r WITH &&));
INSERT INTO span VALUES ('[1,3)'), ('[3,9)');
CREATE VIEW seen AS SELECT id, two FROM one WHERE two > 7;
CREATE VIEW grouped AS SELECT one.*, count(*) FROM one JOIN two ON two.one = one.id GROUP BY one.id;
CREATE MATERIALIZED VIEW mat AS SELECT count(*) FROM many;
CREATE INDEX mat_i ON mat (count);
CREATE MATERIALIZED VIEW mat_empty AS SELECT 1 AS a WITH NO DATA;
CREATE MATERIALIZED VIEW mat_grouped AS SELECT * FROM grouped;
CREATE SEQUENCE counter START 7 INCREMENT 3 MAXVALUE 1000 CYCLE;
SELECT setval('counter', 22, false);
CREATE SEQUENCE fresh;
CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN RAISE EXCEPTION 'never; \! at a restore'; END $x$;
CREATE TRIGGER nobody BEFORE INSERT ON empty FOR EACH ROW EXECUTE PROCEDURE trig();
CREATE TRIGGER nobody BEFORE INSERT OR UPDATE ON one FOR EACH ROW EXECUTE PROCEDURE trig();
CREATE RULE rule AS ON INSERT TO seen DO INSTEAD (INSERT INTO one VALUES (NEW.id, 1); SELECT 1;);
CREATE FUNCTION event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER "ev;ent" ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE PROCEDURE event();
ALTER TABLE kinds ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON kinds TO reader USING (o > 5);
CREATE FUNCTION "f;n"(a int, b text DEFAULT E'x;\'y\\') RETURNS text LANGUAGE sql IMMUTABLE AS $_$ SELECT $2 || E'\';' || $$x;$$ $_$;
CREATE AGGREGATE agg (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR === (PROCEDURE = int4eq, LEFTARG = int, RIGHTARG = int);
CREATE TEXT SEARCH CONFIGURATION ts (COPY = simple);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER far FOREIGN DATA WRAPPER nothing OPTIONS (host 'it''s');
CREATE USER MAPPING FOR "Ow'ner" SERVER far OPTIONS (password 'se''cret');
CREATE FOREIGN TABLE foreign_table (a int) SERVER far;
CREATE FUNCTION other.checked(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 0';
CREATE TABLE other.checks (a int CHECK (other.checked(a)));
INSERT INTO other.checks VALUES (1);
ALTER DEFAULT PRIVILEGES FOR ROLE "Ow'ner" IN SCHEMA other GRANT SELECT ON TABLES TO reader;
SELECT lo_create(4711), lo_create(4712), lo_create(4713);
SELECT lo_put(4711, 5000, decode('00ff5c0a', 'hex')), lo_put(4712, 0, decode(repeat('5c005c6e', 30000), 'hex'));
ALTER LARGE OBJECT 4711 OWNER TO "Ow'ner";
GRANT SELECT ON LARGE OBJECT 4711 TO reader;
COMMENT ON LARGE OBJECT 4712 IS 'it''s large';
