//! What a ZooKeeper does raw, for the benchmarks to compare with: `raw HOSTS` prints one JSON object.
//!
//! Single creates one at a time, single creates with many in flight, and creates in `multi`s of 50. Everything is
//! created below one node of its own, and deleted again.

use std::error::Error;
use std::time::{Duration, Instant};

use futures::StreamExt;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROOT: &str = "/taskd-bench-raw";
/// As much as a small task record has.
const DATA: [u8; 128] = [7; 128];
const SINGLES: usize = 2_000;
const PIPELINED: usize = 20_000;
const PIPELINED_IN_FLIGHT: usize = 256;
const MULTIS: usize = 1_000;
const MULTI_CREATES: usize = 50;
const MULTIS_IN_FLIGHT: usize = 8;

fn main() -> Result<()> {
    let hosts = std::env::args().nth(1).ok_or("usage: raw HOSTS")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let measured = runtime.block_on(measure(&hosts))?;
    println!("{measured}");
    Ok(())
}

fn options(mode: CreateMode) -> CreateOptions<'static> {
    mode.with_acls(Acls::anyone_all())
}

async fn measure(hosts: &str) -> Result<String> {
    let client = Client::connector().with_session_timeout(Duration::from_secs(10)).connect(hosts).await?;
    if client.check_stat(ROOT).await?.is_some() {
        // An earlier run was cut short.
        clean(&client).await?;
    }
    client.create(ROOT, b"", &options(CreateMode::Persistent)).await?;
    let (rates, cleaned) = (rates(&client).await, clean(&client).await);
    cleaned?;
    rates
}

async fn rates(client: &Client) -> Result<String> {
    let mut took = Vec::new();
    let start = Instant::now();
    for n in 0..SINGLES {
        let one = Instant::now();
        client.create(&format!("{ROOT}/s{n}"), &DATA, &options(CreateMode::Persistent)).await?;
        took.push(one.elapsed());
    }
    let single_per_s = per_s(SINGLES, start);
    took.sort();
    let single_p50_us = took[SINGLES / 2].as_secs_f64() * 1e6;

    let start = Instant::now();
    let mut creates = futures::stream::iter(0..PIPELINED)
        .map(|n| async move {
            client.create(&format!("{ROOT}/p{n}"), &DATA, &options(CreateMode::Persistent)).await.map(drop)
        })
        .buffer_unordered(PIPELINED_IN_FLIGHT);
    while let Some(created) = creates.next().await {
        created?;
    }
    let pipelined_per_s = per_s(PIPELINED, start);

    let start = Instant::now();
    let mut multis =
        futures::stream::iter(0..MULTIS).map(|n| multi(client, n)).buffer_unordered(MULTIS_IN_FLIGHT);
    while let Some(committed) = multis.next().await {
        committed?;
    }
    let multi_creates_per_s = per_s(MULTIS * MULTI_CREATES, start);
    Ok(format!(
        "{{\"single_p50_us\":{single_p50_us:.1},\"single_per_s\":{single_per_s:.1},\
         \"pipelined_per_s\":{pipelined_per_s:.1},\"multi_creates_per_s\":{multi_creates_per_s:.1}}}"
    ))
}

async fn multi(client: &Client, n: usize) -> Result<()> {
    let mut writer = client.new_multi_writer();
    for i in 0..MULTI_CREATES {
        writer.add_create(&format!("{ROOT}/m{n}-{i}"), &DATA, &options(CreateMode::Persistent))?;
    }
    writer.commit().await?;
    Ok(())
}

/// Deletes what was created, a few hundred at a time.
async fn clean(client: &Client) -> Result<()> {
    let children = client.list_children(ROOT).await?;
    for names in children.chunks(500) {
        let mut writer = client.new_multi_writer();
        for name in names {
            writer.add_delete(&format!("{ROOT}/{name}"), None)?;
        }
        writer.commit().await?;
    }
    client.delete(ROOT, None).await?;
    Ok(())
}

fn per_s(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}
