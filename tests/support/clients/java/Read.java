// Prints every committed record of a topic with the Java client; see tests/support/clients/__init__.py.

import java.security.MessageDigest;
import java.time.Duration;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Read {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int partitions = Integer.parseInt(args[2]);
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", args[0],
            "isolation.level", "read_committed",
            "enable.auto.commit", "false");
        List<TopicPartition> places =
            IntStream.range(0, partitions).mapToObj(n -> new TopicPartition(topic, n)).toList();
        Set<Integer> ended = new HashSet<>();
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, bytes, bytes)) {
            consumer.assign(places);
            consumer.seekToBeginning(places);
            while (ended.size() < partitions) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    String key = new String(record.key(), "UTF-8");
                    System.out.println(line(record, key));
                    if (key.equals("end")) {
                        ended.add(record.partition());
                    }
                }
            }
        }
    }

    private static String line(ConsumerRecord<byte[], byte[]> record, String key) throws Exception {
        String digest = "-";
        if (record.value() != null) {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest(record.value());
            digest = HexFormat.of().formatHex(hash);
        }
        StringBuilder line = new StringBuilder();
        line.append(record.partition()).append(' ').append(record.offset());
        line.append(' ').append(key).append(' ').append(digest);
        for (Header header : record.headers()) {
            line.append(' ').append(header.key()).append('=').append(new String(header.value(), "UTF-8"));
        }
        return line.toString();
    }
}
