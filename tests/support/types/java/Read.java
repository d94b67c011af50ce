// What a reader does with the types: one line for each event and operation.

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.deser.std.FromStringDeserializer;
import com.fasterxml.jackson.databind.DeserializationContext;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.OffsetDateTime;
import pub.chive.*;

public final class Read {
    private static final ObjectMapper MAPPER = new ObjectMapper()
        .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false)
        .registerModule(new SimpleModule().addDeserializer(OffsetDateTime.class, new Times()));

    // With jackson-datatype-jsr310 on the class path its JavaTimeModule does this.
    private static final class Times extends FromStringDeserializer<OffsetDateTime> {
        Times() { super(OffsetDateTime.class); }
        @Override
        protected OffsetDateTime _deserialize(String text, DeserializationContext context) {
            return OffsetDateTime.parse(text);
        }
    }

    private static String text(Object value) {
        return value == null ? "-" : value.toString();
    }

    private static String event(JsonNode value) throws IOException {
        switch (value.get("type").asText()) {
            case "record": {
                var one = MAPPER.treeToValue(value, RecordEvent.class);
                return "record " + one.getURI() + " " + one.getAction().toValue() + " " + text(one.getCid())
                    + " " + one.getSource();
            }
            case "account": {
                var one = MAPPER.treeToValue(value, AccountEvent.class);
                return "account " + one.getDid() + " " + one.getActive() + " " + one.getStatus();
            }
            case "identity": {
                var one = MAPPER.treeToValue(value, IdentityEvent.class);
                return "identity " + one.getDid() + " " + text(one.getHandle());
            }
            case "sync": {
                var one = MAPPER.treeToValue(value, SyncEvent.class);
                return "sync " + one.getDid() + " " + one.getState().toValue() + " " + text(one.getReason());
            }
            case "progress": {
                var one = MAPPER.treeToValue(value, ProgressEvent.class);
                return "progress " + one.getLane() + " " + one.getSeq();
            }
            default:
                return "unknown";
        }
    }

    private static String operation(JsonNode value) throws IOException {
        var one = MAPPER.treeToValue(value, Operation.class);
        var done = one.getChildren() == null ? null : one.getChildren().getDone();
        return "operation " + one.getID() + " " + one.getType() + " " + one.getStatus().toValue() + " " + text(done);
    }

    public static void main(String[] files) throws IOException {
        for (var line : Files.readAllLines(Path.of(files[0]))) System.out.println(event(MAPPER.readTree(line)));
        for (var line : Files.readAllLines(Path.of(files[1]))) System.out.println(operation(MAPPER.readTree(line)));
    }
}
