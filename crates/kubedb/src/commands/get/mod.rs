//! `kubedb get`: tables, objects, and changes as they come.

pub(super) mod rows;
mod watch;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::{api::ListParams, core::DynamicObject};
use serde_json::{Value, json};

use self::rows::Columns;
use super::selection::{self, NamespaceArgs, Selection};
use crate::{
    client::{ServerArgs, Session, kinds::Kind},
    error::{CommandError, Failures},
    manifest::yaml,
    table::Table,
    ui::Ui,
};

const EXAMPLES: &str = "\
Types: postgres (pg), snapshot (snap), dormantdatabase (drmn), postgresversion (pgversion),
namespace (ns), secret, configmap (cm), event (ev); all means pg,snap,drmn.

Examples:
  kubedb get pg -n demo
  kubedb get snap -n demo --selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg
  kubedb get pg/scheduled-pg -n demo -o yaml
  kubedb get snap --all-namespaces -o wide
  kubedb get snap -n demo --watch";

/// What `get` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// TYPE, TYPE NAME… or TYPE/NAME…; types may be a comma list
    #[arg(value_name = "TYPE [NAME]")]
    pub(crate) objects: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels, such as key=value,other!=value
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// How to print: table, wide, json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<String>,
    /// After listing, print every change
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Add a column with all labels
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Put the type before each name
    #[arg(long)]
    pub(crate) show_kind: bool,
    /// Accepted for old scripts; everything is shown anyway
    #[arg(short = 'a', long, hide = true)]
    pub(crate) show_all: bool,
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table with the columns that fit a terminal.
    Table,
    /// A table with all columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `type/name`.
    Name,
}

impl Output {
    /// Reads `-o`.
    pub(crate) fn parse(typed: Option<&str>) -> Result<Self, CommandError> {
        match typed {
            None | Some("") => Ok(Self::Table),
            Some(text) => Self::from_str(text, false).map_err(|_| {
                let message = format!(
                    "output format {text:?} not recognized: it is one of table, wide, json, yaml, name"
                );
                CommandError::usage(message)
            }),
        }
    }
}

/// The objects of one kind.
struct Group {
    kind: &'static Kind,
    objects: Vec<DynamicObject>,
    /// Version of the list, where a watch starts.
    version: Option<String>,
}

pub(super) async fn run(
    arguments: GetArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let output = Output::parse(arguments.output.as_deref())?;
    let selection = Selection::parse(&arguments.objects, "get")?;
    check(&arguments, &selection)?;
    let session = Session::open(server).await?;
    let (groups, failures) = fetch(&session, &selection, &arguments, ui).await?;
    let columns = Columns {
        wide: output == Output::Wide,
        namespace: arguments.all_namespaces,
        labels: arguments.show_labels,
        kind: arguments.show_kind || selection.kinds().len() > 1,
    };
    let mut printer = Printer {
        output,
        columns,
        table: Table::default(),
    };
    let single = matches!(&selection, Selection::Named(named) if named.len() == 1);
    let nothing = groups.iter().all(|group| group.objects.is_empty());
    if failures.any() && nothing {
        return failures.end();
    }
    if arguments.watch {
        return watch::run(&session, groups, &selection, &arguments, &mut printer, ui).await;
    }
    printer.print_all(&groups, single, ui)?;
    failures.end()
}

/// What fits together.
fn check(arguments: &GetArgs, selection: &Selection) -> Result<(), CommandError> {
    let named = matches!(selection, Selection::Named(_));
    if named && arguments.selector.is_some() {
        return Err(CommandError::usage(
            "name cannot be provided when a selector is specified",
        ));
    }
    if named && arguments.all_namespaces {
        return Err(CommandError::usage(
            "a resource cannot be retrieved by name across all namespaces",
        ));
    }
    if arguments.watch && selection.kinds().len() > 1 {
        return Err(CommandError::usage(
            "you may only specify a single resource type to watch",
        ));
    }
    Ok(())
}

/// Lists or gets. Says which names failed and goes on with the others.
async fn fetch(
    session: &Session,
    selection: &Selection,
    arguments: &GetArgs,
    ui: &Ui,
) -> Result<(Vec<Group>, Failures), CommandError> {
    let mut failures = Failures::default();
    let mut groups = Vec::new();
    for kind in selection.kinds() {
        let (mut objects, mut version) = (Vec::new(), None);
        match selection {
            Selection::Kinds(_) => {
                let namespace =
                    (!arguments.all_namespaces).then_some(&*arguments.namespace.namespace);
                let parameters = ListParams {
                    label_selector: arguments.selector.clone(),
                    ..ListParams::default()
                };
                (objects, version) = selection::list(session, kind, namespace, &parameters).await?;
                objects.sort_by_key(|object| {
                    (
                        object.metadata.namespace.clone(),
                        object.metadata.name.clone(),
                    )
                });
            }
            Selection::Named(named) => {
                for (_, name) in named.iter().filter(|(of, _)| *of == kind) {
                    match selection::get(session, kind, &arguments.namespace.namespace, name).await
                    {
                        Ok(object) => objects.push(object),
                        Err(error) => {
                            ui.error(&error);
                            failures.add(&error);
                        }
                    }
                }
            }
        }
        groups.push(Group {
            kind,
            objects,
            version,
        });
    }
    Ok((groups, failures))
}

/// Prints objects one way.
struct Printer {
    output: Output,
    columns: Columns,
    /// Of the kind being watched.
    table: Table,
}

impl Printer {
    fn print_all(&mut self, groups: &[Group], single: bool, ui: &Ui) -> Result<(), CommandError> {
        let objects: Vec<&DynamicObject> = groups.iter().flat_map(|group| &group.objects).collect();
        match self.output {
            Output::Json | Output::Yaml => {
                let value = match objects.as_slice() {
                    [object] if single => json!(object),
                    _ => {
                        json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": objects })
                    }
                };
                ui.block(&self.text(&value)?);
            }
            _ if objects.is_empty() => ui.note("No resources found."),
            _ => {
                let filled = groups.iter().filter(|group| !group.objects.is_empty());
                let blocks: Vec<String> = filled.map(|group| self.block(group)).collect();
                let between = if self.output == Output::Name {
                    ""
                } else {
                    "\n"
                };
                ui.block(&blocks.join(between));
            }
        }
        Ok(())
    }

    /// A heading and its rows, or the names.
    fn block(&mut self, group: &Group) -> String {
        if self.output == Output::Name {
            return group
                .objects
                .iter()
                .map(|object| name_line(group.kind, object) + "\n")
                .collect();
        }
        self.table = Table::default();
        let now = Timestamp::now();
        let columns = self.columns.of(group.kind);
        let header = rows::header(group.kind, columns);
        let rows = group.objects.iter();
        let rows = rows.map(|object| rows::row(group.kind, object, columns, now));
        self.table
            .render(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
    }

    /// A changed object.
    fn print_change(
        &mut self,
        kind: &Kind,
        object: &DynamicObject,
        ui: &Ui,
    ) -> Result<(), CommandError> {
        match self.output {
            Output::Json => ui.block(&self.text(&json!(object))?),
            Output::Yaml => ui.block(&format!("---\n{}", self.text(&json!(object))?)),
            Output::Name => ui.data(&name_line(kind, object)),
            Output::Table | Output::Wide => {
                // Nothing was there at first: the heading comes with the first row.
                let (columns, mut rows) = (self.columns.of(kind), Vec::new());
                if self.table.is_empty() {
                    rows.push(rows::header(kind, columns));
                }
                rows.push(rows::row(kind, object, columns, Timestamp::now()));
                ui.block(&self.table.render(&rows));
            }
        }
        Ok(())
    }

    fn text(&self, value: &Value) -> Result<String, CommandError> {
        if self.output == Output::Yaml {
            Ok(yaml::to_yaml(value))
        } else {
            to_json(value)
        }
    }
}

fn name_line(kind: &Kind, object: &DynamicObject) -> String {
    format!(
        "{}/{}",
        kind.singular,
        object.metadata.name.as_deref().unwrap_or_default()
    )
}

/// JSON with a line end.
pub(crate) fn to_json(value: &Value) -> Result<String, CommandError> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n")
        .map_err(|source| CommandError::Manifest {
            message: "failed to write JSON".to_owned(),
            source: Some(Box::new(source)),
        })
}
