import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Follow chive.events into SQLite, each event exactly once.
 *
 * <pre>java -cp 'target/classes:target/dependency/*' Follow localhost:9092 chive.events index.sqlite</pre>
 *
 * The offsets lie in the database and are written by the transaction that takes the events in: after a
 * crash at any point both are there, or neither. Kafka's own offsets are not used, and nothing has to be
 * done to stop: end the process in any way, and start it again.
 */
public final class Follow {
    private static final int BATCH = 500; // events in a transaction, at most
    // The topic forgets what was deleted 14 days ago or earlier (min.compaction.lag.ms and
    // delete.retention.ms). An index that was away for longer could keep deleted records for ever.
    private static final Duration LONGEST_AWAY = Duration.ofDays(7);
    // A power cut may take the last transactions from a WAL, but then their offsets too.
    private static final String SETTINGS =
        "?transaction_mode=IMMEDIATE&busy_timeout=30000&journal_mode=WAL&synchronous=NORMAL";

    private static final String SCHEMA = """
        CREATE TABLE IF NOT EXISTS offsets (  -- the next to read, and when it was written (Unix time)
            partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, at INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS records (  -- event: the newest event of the record, as it came
            uri TEXT PRIMARY KEY, did TEXT NOT NULL, collection TEXT NOT NULL, rev TEXT NOT NULL,
            cid TEXT NOT NULL, event TEXT NOT NULL);
        CREATE INDEX IF NOT EXISTS records_did ON records (did);
        CREATE TABLE IF NOT EXISTS accounts (  -- stale: records may be missing or out of date for now
            did TEXT PRIMARY KEY, active INTEGER NOT NULL DEFAULT TRUE,
            status TEXT NOT NULL DEFAULT 'active', stale INTEGER NOT NULL DEFAULT FALSE);
        CREATE TABLE IF NOT EXISTS lanes (  -- of a partition: complete up to when, and which snapshot
            lane INTEGER PRIMARY KEY, as_of TEXT, snapshot TEXT);
        CREATE VIEW IF NOT EXISTS shown AS  -- what people may see
            SELECT uri, did, collection, cid, event -> '$.record' AS record, coalesce(stale, FALSE) AS stale
            FROM records LEFT JOIN accounts USING (did) WHERE coalesce(active, TRUE);
        """;

    private final ObjectMapper json = new ObjectMapper();
    private final Connection database;
    private final Map<String, PreparedStatement> prepared = new HashMap<>();
    private final Map<TopicPartition, Long> offsets = new HashMap<>(); // the next to read

    private Follow(String path) throws SQLException {
        database = DriverManager.getConnection("jdbc:sqlite:" + path + SETTINGS);
        try (Statement statement = database.createStatement()) {
            statement.executeUpdate(SCHEMA);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 3) {
            System.err.println("usage: Follow SERVERS TOPIC FILE");
            System.exit(1);
        }
        try {
            new Follow(args[2]).follow(args[0], args[1]);
        } catch (IllegalStateException reason) {
            System.err.println(reason.getMessage());
            System.exit(1);
        }
    }

    /** Takes the topic into the database, for ever. */
    private void follow(String servers, String topic) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", servers,
            "isolation.level", "read_committed",
            "enable.auto.commit", false,
            "allow.auto.create.topics", false,
            "max.poll.records", BATCH,
            "auto.offset.reset", "none"); // another topic of that name: begin with another file
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            List<TopicPartition> places = consumer.partitionsFor(topic).stream()
                .map(each -> new TopicPartition(topic, each.partition())).toList();
            if (places.isEmpty()) {
                throw new IllegalStateException("there is no topic " + topic);
            }
            readOffsets(places);
            // All partitions by name, without a group: none is taken away. To share the work, give each
            // process some of them, and a database of its own: an account lies in one partition.
            consumer.assign(places);
            offsets.forEach(consumer::seek);
            while (true) {
                take(consumer.poll(Duration.ofSeconds(1)));
            }
        }
    }

    /** Reads the next offset of each partition: 0 in a new database. */
    private void readOffsets(List<TopicPartition> places) throws SQLException {
        long now = Instant.now().getEpochSecond();
        begin();
        try (Statement statement = database.createStatement();
             ResultSet newest = statement.executeQuery("SELECT max(at) FROM offsets")) {
            if (newest.getLong(1) < now - LONGEST_AWAY.toSeconds() && !newest.wasNull()) {
                throw new IllegalStateException(
                    "the index was away for too long: begin again with an empty database");
            }
        }
        for (TopicPartition place : places) {
            execute("INSERT OR IGNORE INTO offsets VALUES (?, 0, ?)", place.partition(), now);
        }
        for (TopicPartition place : places) {
            PreparedStatement read = statement("SELECT next FROM offsets WHERE partition = ?");
            read.setInt(1, place.partition());
            try (ResultSet next = read.executeQuery()) {
                offsets.put(place, next.getLong(1));
            }
        }
        commit();
    }

    /** Takes records in, and moves the offsets, in the database and here. */
    private void take(ConsumerRecords<byte[], byte[]> records) throws Exception {
        if (records.isEmpty()) {
            return;
        }
        Map<TopicPartition, Long> after = new HashMap<>();
        for (TopicPartition place : records.partitions()) {
            List<ConsumerRecord<byte[], byte[]>> of = records.records(place);
            after.put(place, of.get(of.size() - 1).offset() + 1);
        }
        begin();
        String move = "UPDATE offsets SET next = ?, at = ? WHERE partition = ? AND next = ?";
        for (TopicPartition place : after.keySet()) {
            long now = Instant.now().getEpochSecond();
            if (execute(move, after.get(place), now, place.partition(), offsets.get(place)) != 1) {
                throw new IllegalStateException("another process writes to this database");
            }
        }
        for (ConsumerRecord<byte[], byte[]> record : records) {
            apply(record.key(), record.value());
        }
        commit();
        offsets.putAll(after);
    }

    /**
     * Does to the tables what one record of the topic says.
     *
     * <p>Within a partition, and so for an account, the order of the topic is the order of the changes.
     */
    private void apply(byte[] key, byte[] value) throws Exception {
        if (value == null) {
            // A tombstone follows each delete; compaction removes the delete and leaves the tombstone.
            execute("DELETE FROM records WHERE uri = ?", new String(key, StandardCharsets.UTF_8));
            return;
        }
        JsonNode event = json.readTree(value);
        String did = event.path("did").asText();
        switch (event.path("type").asText()) {
            case "record" -> {
                if (event.get("action").asText().equals("delete")) {
                    execute("DELETE FROM records WHERE uri = ?", event.get("uri").asText());
                } else {
                    store(did, event, value);
                }
            }
            case "account" ->
                // Hide, do not delete: an account may come back, and its records are not sent again. If
                // it was deleted, a delete comes for each record.
                execute("""
                    INSERT INTO accounts (did, active, status) VALUES (?, ?, ?) ON CONFLICT (did)
                    DO UPDATE SET active = excluded.active, status = excluded.status""",
                    did, event.get("active").asBoolean(), event.get("status").asText());
            case "sync" ->
                execute("""
                    INSERT INTO accounts (did, stale) VALUES (?, ?) ON CONFLICT (did)
                    DO UPDATE SET stale = excluded.stale""",
                    did, !event.get("state").asText().equals("active"));
            case "progress" ->
                execute("""
                    INSERT INTO lanes (lane, as_of) VALUES (?, ?) ON CONFLICT (lane)
                    DO UPDATE SET as_of = excluded.as_of""",
                    event.get("lane").asInt(), event.get("asOf").asText());
            case "snapshot_complete" ->
                execute("""
                    INSERT INTO lanes (lane, snapshot) VALUES (?, ?) ON CONFLICT (lane)
                    DO UPDATE SET snapshot = excluded.snapshot""",
                    event.get("lane").asInt(), event.get("snapshot").asText());
            default -> { } // identity: nothing here depends on handles; others are for newer programs
        }
    }

    /**
     * Stores what a create or update says, which are taken alike.
     *
     * <p>An update may be the first that is heard of a record, and a sync with "emit": "all" publishes what
     * did not change once more. A rev that is older than the row's only comes if one reads the topic again
     * into a full database.
     */
    private void store(String did, JsonNode event, byte[] value) throws SQLException {
        execute("""
            INSERT INTO records VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (uri) DO UPDATE
            SET rev = excluded.rev, cid = excluded.cid, event = excluded.event
            WHERE excluded.rev >= records.rev""",
            event.get("uri").asText(), did, event.get("collection").asText(), event.get("rev").asText(),
            event.get("cid").asText(),
            new String(value, StandardCharsets.UTF_8)); // not written anew: numbers keep their digits
    }

    private void begin() throws SQLException {
        database.setAutoCommit(false);
    }

    /** Ends the transaction; commit() alone would begin the next one at once, and lock others out. */
    private void commit() throws SQLException {
        database.setAutoCommit(true);
    }

    /** Carries out a statement and returns how many rows it changed. */
    private int execute(String sql, Object... values) throws SQLException {
        PreparedStatement statement = statement(sql);
        for (int i = 0; i < values.length; i++) {
            statement.setObject(i + 1, values[i]);
        }
        return statement.executeUpdate();
    }

    private PreparedStatement statement(String sql) throws SQLException {
        PreparedStatement found = prepared.get(sql);
        if (found == null) {
            found = database.prepareStatement(sql);
            prepared.put(sql, found);
        }
        return found;
    }
}
