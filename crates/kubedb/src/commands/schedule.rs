//! `kubedb schedule`: the dialect, tried before a database depends on it.

use jiff::Timestamp;
use kubedb_core::schedule::Schedule;

use crate::{
    cli::{ListOutput, ScheduleCommand},
    error::CommandError,
    ui::Ui,
};

pub(super) fn run(command: ScheduleCommand, ui: &Ui) -> Result<(), CommandError> {
    match command {
        ScheduleCommand::Next {
            expression,
            after,
            count,
            time_zone,
            output,
        } => {
            let schedule = read(&expression, time_zone.as_deref())?;
            let after = match after {
                None => Timestamp::now(),
                Some(text) => text.parse().map_err(|_| CommandError::ReadTime { text })?,
            };
            print(&next_times(&schedule, after, count), output, ui);
        }
        ScheduleCommand::Explain {
            expression,
            time_zone,
        } => {
            ui.data(&read(&expression, time_zone.as_deref())?.explain());
        }
    }
    Ok(())
}

fn read(expression: &str, zone: Option<&str>) -> Result<Schedule, CommandError> {
    Schedule::parse(expression, zone).map_err(|source| CommandError::ReadSchedule {
        expression: expression.to_owned(),
        source,
    })
}

/// Fewer than `count` where the schedule ends within five years of a time.
fn next_times(schedule: &Schedule, after: Timestamp, count: u16) -> Vec<String> {
    let mut times = Vec::with_capacity(usize::from(count));
    let mut after = after;
    for _ in 0..count {
        let Some(next) = schedule.next_after(after) else {
            break;
        };
        times.push(next.to_string());
        after = next;
    }
    times
}

fn print(times: &[String], output: Option<ListOutput>, ui: &Ui) {
    match output {
        Some(ListOutput::Json) => {
            let quoted: Vec<serde_json::Value> = times.iter().cloned().map(Into::into).collect();
            ui.data(&serde_json::Value::Array(quoted).to_string());
        }
        None => times.iter().for_each(|time| ui.data(time)),
    }
}
