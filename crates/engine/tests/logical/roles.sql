CREATE ROLE reader NOLOGIN NOINHERIT;
CREATE ROLE "Ow'ner" LOGIN CREATEDB CONNECTION LIMIT 5 PASSWORD 'it''s secret' VALID UNTIL '2031-02-03 04:05:06+00';
CREATE ROLE "quote ""role""
line" SUPERUSER CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE "päge";
COMMENT ON ROLE reader IS E'back\\slash; it''s';
GRANT reader TO "Ow'ner" WITH ADMIN OPTION;
GRANT reader TO "päge";
GRANT "Ow'ner" TO "quote ""role""
line";
ALTER ROLE "Ow'ner" SET work_mem = '7MB';
ALTER ROLE reader SET "my.own" = 'a, b';
