//! The asynchronous half of the `redis` crate: many commands at once on one connection, channels in RESP2 and RESP3, a
//! client-side cache, and a cluster whose nodes are the cores.

mod harness;
mod support;

use std::future::Future;
use std::time::Duration;

use futures_lite::StreamExt;
use harness::Server;
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use redis::cluster::ClusterClient;
use redis::{AsyncConnectionConfig, AsyncTypedCommands, ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use support::client::{Client, PATIENCE};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

const CORES: u16 = 4;

fn with_server<F: Future<Output = RedisResult<()>>>(test: impl FnOnce(u16) -> F) -> RedisResult<()> {
    let server = Server::start(&["--cores", &CORES.to_string()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(PATIENCE, test(server.port())).await.expect("it is done long before") })
}

fn client(port: u16, protocol: &str) -> RedisResult<redis::Client> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol={protocol}"))
}

async fn pushing(port: u16) -> RedisResult<(MultiplexedConnection, UnboundedReceiver<PushInfo>)> {
    let (sender, pushes) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let connection = client(port, "resp3")?.get_multiplexed_async_connection_with_config(&config).await?;
    Ok((connection, pushes))
}

/// The next message, confirmations passed over: what kind it is, and its words.
async fn next_message(pushes: &mut UnboundedReceiver<PushInfo>) -> (PushKind, Vec<String>) {
    loop {
        let PushInfo { kind, data } = pushes.recv().await.expect("the connection is open");
        if matches!(kind, PushKind::Message | PushKind::PMessage | PushKind::SMessage) {
            let word = |value: Value| redis::from_redis_value::<String>(value).expect("a word");
            return (kind, data.into_iter().map(word).collect());
        }
    }
}

#[test]
fn many_at_once_on_one_connection() -> RedisResult<()> {
    with_server(async |port| {
        for protocol in ["resp2", "resp3"] {
            let connection = client(port, protocol)?.get_multiplexed_async_connection().await?;
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..50 {
                let mut connection = connection.clone();
                tasks.spawn(async move {
                    for round in 0..40 {
                        let key = format!("{protocol}:{task}:{round}");
                        connection.set(&key, task).await?;
                        assert_eq!(connection.incr(&key, round).await?, task + round);
                        assert_eq!(connection.get(&key).await?, Some((task + round).to_string()));
                    }
                    Ok::<_, redis::RedisError>(())
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("no task panics")?;
            }
            let mut connection = connection;
            let (first, second): (i64, Vec<i64>) = redis::pipe()
                .atomic()
                .incr(format!("{protocol}:0:0"), 5)
                .mget(&[format!("{protocol}:1:0"), format!("{protocol}:2:1")])
                .query_async(&mut connection)
                .await?;
            assert_eq!((first, second), (5, vec![1, 3]));
            let cursor = connection.scan_match::<_, String>(format!("{protocol}:7:*")).await?;
            let found: Vec<String> = cursor.try_collect().await?;
            assert_eq!(found.len(), 40);
        }
        Ok(())
    })
}

#[test]
fn channels() -> RedisResult<()> {
    with_server(async |port| {
        let mut speaker = client(port, "resp2")?.get_multiplexed_async_connection().await?;
        let mut listener = client(port, "resp2")?.get_async_pubsub().await?;
        listener.subscribe("news").await?;
        listener.psubscribe("wea*").await?;
        let (mut pushed, mut pushes) = pushing(port).await?;
        pushed.subscribe("news").await?;
        pushed.psubscribe("wea*").await?;
        for number in 0..100 {
            assert_eq!(speaker.publish("news", number).await?, 2);
            assert_eq!(speaker.publish("weather", number).await?, 2);
        }
        let mut messages = listener.on_message();
        for number in 0..100 {
            for channel in ["news", "weather"] {
                let message = messages.next().await.expect("the connection is open");
                assert_eq!((message.get_channel_name(), message.get_payload::<i64>()?), (channel, number));
            }
            let number = number.to_string();
            assert_eq!(next_message(&mut pushes).await, (PushKind::Message, vec!["news".into(), number.clone()]));
            let words = vec!["wea*".into(), "weather".into(), number];
            assert_eq!(next_message(&mut pushes).await, (PushKind::PMessage, words));
        }
        // Commands go on between messages.
        assert_eq!(pushed.get("nosuch").await?, None);
        pushed.unsubscribe("news").await?;
        assert_eq!(speaker.publish("news", "late").await?, 1);
        drop(messages);
        drop((listener, pushed));
        while speaker.publish("weather", "nobody").await? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    })
}

/// What it remembers it forgets when somebody else writes it, on whichever core.
#[test]
fn a_client_side_cache() -> RedisResult<()> {
    with_server(async |port| {
        let config = AsyncConnectionConfig::new().set_cache_config(CacheConfig::default());
        let mut reader = client(port, "resp3")?.get_multiplexed_async_connection_with_config(&config).await?;
        let mut writer = client(port, "resp2")?.get_multiplexed_async_connection().await?;
        for number in 0..50 {
            let key = format!("cached:{number}");
            writer.set(&key, "old").await?;
            assert_eq!(reader.get(&key).await?.as_deref(), Some("old"));
            writer.set(&key, "new").await?;
            while reader.get(&key).await?.as_deref() != Some("new") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let before = reader.get_cache_statistics().expect("there is a cache");
        assert!(before.invalidate >= 50, "{before:?}");
        for _ in 0..1000 {
            assert_eq!(reader.get("cached:7").await?.as_deref(), Some("new"));
        }
        let after = reader.get_cache_statistics().expect("there is a cache");
        assert_eq!((after.hit - before.hit, after.miss - before.miss), (1000, 0));
        Ok(())
    })
}

#[test]
fn a_cluster() -> RedisResult<()> {
    with_server(async |port| {
        let (sender, mut pushes) = unbounded_channel();
        let nodes = vec![format!("redis://127.0.0.1:{port}/")];
        let builder = ClusterClient::builder(nodes).use_protocol(ProtocolVersion::RESP3).push_sender(sender);
        let mut cluster = builder.build()?.get_async_connection().await?;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..20 {
            let mut cluster = cluster.clone();
            tasks.spawn(async move {
                for round in 0..50 {
                    let key = format!("key:{task}:{round}");
                    cluster.set(&key, round).await?;
                    assert_eq!(cluster.get(&key).await?, Some(round.to_string()));
                }
                Ok::<_, redis::RedisError>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics")?;
        }
        assert_eq!(Client::connect(([127, 0, 0, 1], port).into()).call("DBSIZE").as_int(), 1000);
        // Each channel of a shard belongs to the node of its slot.
        for number in 0..20 {
            cluster.ssubscribe(format!("shard:{number}")).await?;
        }
        for number in 0..20 {
            assert_eq!(cluster.spublish(format!("shard:{number}"), number).await?, 1);
        }
        let mut heard = Vec::new();
        while heard.len() < 20 {
            let (kind, words) = next_message(&mut pushes).await;
            assert_eq!(kind, PushKind::SMessage);
            assert_eq!(words[0], format!("shard:{}", words[1]));
            heard.push(words[1].parse::<u32>().expect("a number"));
        }
        heard.sort_unstable();
        assert_eq!(heard, (0..20).collect::<Vec<u32>>());
        Ok(())
    })
}
