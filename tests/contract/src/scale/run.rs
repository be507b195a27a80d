//! One measurement, from nothing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Failure, Record, Sizes, Subject,
    agents::Agents,
    past,
    record::quantile,
    schedule::{self, Lookout, late},
    subject::{Operator, sum},
    world::{World, count, since},
};

/// For what takes minutes with a thousand databases; a start is over within.
const LIMIT: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(250);
/// An operator that has written nothing for so long is at rest.
const REST: Duration = Duration::from_secs(20);

/// Measures, in a folder of its own. `say` is told how far it is.
///
/// # Errors
/// When something cannot be started, or does not become what it should.
pub async fn measure(
    subject: &Subject,
    sizes: &Sizes,
    folder: &Path,
    say: impl Fn(&str),
) -> Result<Vec<Record>, Failure> {
    let Sizes {
        databases,
        snapshots,
        ..
    } = *sizes;
    let world = World::start(folder).await?;
    say(&format!("making {databases} databases"));
    past::make_databases(&world.client, sizes).await?;
    let agents = Agents::start(&world.client);
    let operator = Operator::start(subject, &world, "first")?;
    until(&operator, "the databases are not Running", || {
        Ok(agents.running() >= databases)
    })
    .await?;
    let mut records = vec![Record::new(
        "from nothing to Running, all databases",
        "s",
        operator.started.elapsed().as_secs_f64(),
    )];
    operator.stop()?;
    say(&format!("making {snapshots} Snapshots"));
    past::make_snapshots(&world.client, sizes).await?;
    say("starting the operator");
    let operator = Operator::start(subject, &world, "second")?;
    records.extend(start(&operator, sizes).await?);
    rest(&operator, &world).await?;
    say("watching it at rest");
    records.extend(steady(&operator, &world, sizes, &say).await?);
    say("watching schedules");
    records.extend(scheduled(&operator, &world, &agents, sizes, &say).await?);
    let most = operator.memory("VmHWM")?;
    records.push(Record::new("memory, the most ever", "MB", most).aim(150.0));
    Ok(records)
}

async fn until(
    operator: &Operator,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let end = Instant::now() + LIMIT;
    while !is_so()? {
        operator.memory("VmRSS")?;
        if Instant::now() > end {
            return Err(operator.failed(what));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Until it has looked at everything once.
async fn start(operator: &Operator, sizes: &Sizes) -> Result<Vec<Record>, Failure> {
    let looked = |metrics: &str| {
        let begin = "kubedb_operator_reconciles_total{controller=\"Postgres\",result=\"success\"}";
        sum(metrics, begin)
    };
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let (databases, snapshots) = (sizes.databases as f64, sizes.snapshots as f64);
    until(operator, "it does not look at everything", || {
        let metrics = operator.metrics().unwrap_or_default();
        // Of Snapshots that have ended there is nothing to look at but that they have.
        let known = sum(&metrics, "kubedb_operator_objects{kind=\"Snapshot\"}");
        let all = looked(&metrics) >= databases && known >= snapshots;
        Ok(all && sum(&metrics, "kubedb_operator_reconciles_active") == 0.0)
    })
    .await?;
    Ok(vec![
        Record::new(
            "start until everything was looked at",
            "s",
            operator.started.elapsed().as_secs_f64(),
        ),
        Record::new("CPU of that", "s", operator.cpu()?),
        Record::new("memory after the start", "MB", operator.memory("VmRSS")?),
        Record::new(
            "memory, the most of the start",
            "MB",
            operator.memory("VmHWM")?,
        )
        .aim(150.0),
    ])
}

/// Waits until it writes nothing.
async fn rest(operator: &Operator, world: &World) -> Result<(), Failure> {
    let mut known = (count(&world.writes()?), Instant::now());
    until(operator, "it goes on writing", || {
        let written = count(&world.writes()?);
        if written != known.0 {
            known = (written, Instant::now());
        }
        Ok(known.1.elapsed() > REST)
    })
    .await
}

/// What happens while nothing happens but heartbeats.
async fn steady(
    operator: &Operator,
    world: &World,
    sizes: &Sizes,
    say: &impl Fn(&str),
) -> Result<Vec<Record>, Failure> {
    let requests = || {
        let metrics = operator.metrics();
        let metrics = metrics.ok_or_else(|| operator.failed("it does not answer"))?;
        Ok::<_, Failure>(sum(&metrics, "kubedb_operator_api_requests_total"))
    };
    let (written, asked, cpu) = (world.writes()?, requests()?, operator.cpu()?);
    let began = Instant::now();
    sleep(sizes.steady).await;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let writes = since(&written, &world.writes()?);
    say(&format!("written at rest: {writes:?}"));
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let others = count(&writes) as f64;
    Ok(vec![
        Record::new(
            "writes at rest, besides Leases",
            "a minute",
            others / minutes,
        )
        .aim(1.0),
        Record::new(
            "requests at rest",
            "a minute",
            (requests()? - asked) / minutes,
        ),
        Record::new("CPU at rest", "%", (operator.cpu()? - cpu) / minutes / 0.6),
        Record::new("memory at rest", "MB", operator.memory("VmRSS")?).aim(150.0),
    ])
}

/// How late the Snapshots of all schedules are.
async fn scheduled(
    operator: &Operator,
    world: &World,
    agents: &Agents,
    sizes: &Sizes,
    say: &impl Fn(&str),
) -> Result<Vec<Record>, Failure> {
    let first = schedule::first_tick(sizes)?;
    let lookout = Lookout::start(&world.client, first);
    let (written, cpu) = (world.writes()?, operator.cpu()?);
    schedule::spread(&world.client, sizes, first).await?;
    until(operator, "not all Snapshots were begun", || {
        let (made, begun) = (lookout.made(), agents.begun());
        let all = made.keys().filter(|name| begun.contains_key(*name));
        Ok(all.count() >= sizes.databases)
    })
    .await?;
    rest(operator, world).await?;
    let begun = agents.begun();
    let made = lookout.made();
    let seen: Vec<f64> = made
        .values()
        .map(|made| late(made.tick, made.seen))
        .collect();
    let since_tick = made.iter().filter_map(|(name, made)| {
        let begun = begun.get(name)?;
        Some((late(made.tick, *begun), late(made.not_before, *begun)))
    });
    let (waited, started): (Vec<f64>, Vec<f64>) = since_tick.unzip();
    let writes = since(&written, &world.writes()?);
    say(&format!("written for schedules: {writes:?}"));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let each = |value: f64| value / made.len() as f64;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let written = count(&writes) as f64;
    let seconds = |name, values: &[f64], share| Record::new(name, "s", quantile(values, share));
    Ok(vec![
        seconds("a Snapshot is made after its tick, median", &seen, 0.5),
        seconds("a Snapshot is made after its tick, p99", &seen, 0.99).aim(1.0),
        seconds("a Snapshot is made after its tick, most", &seen, 1.0),
        seconds("it is begun after its turn, median", &started, 0.5),
        seconds("it is begun after its turn, p99", &started, 0.99).aim(1.0),
        seconds("it is begun after its turn, most", &started, 1.0),
        seconds("it is begun after its tick, most", &waited, 1.0),
        Record::new("writes of a scheduled Snapshot", "", each(written)),
        Record::new(
            "CPU of a scheduled Snapshot",
            "ms",
            each((operator.cpu()? - cpu) * 1_000.0),
        ),
    ])
}
