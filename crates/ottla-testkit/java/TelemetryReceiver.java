import java.io.FileWriter;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.common.metrics.KafkaMetric;
import org.apache.kafka.common.metrics.MetricsReporter;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.telemetry.ClientTelemetry;
import org.apache.kafka.server.telemetry.ClientTelemetryPayload;
import org.apache.kafka.server.telemetry.ClientTelemetryReceiver;
import org.apache.kafka.shaded.io.opentelemetry.proto.common.v1.KeyValue;
import org.apache.kafka.shaded.io.opentelemetry.proto.metrics.v1.Metric;
import org.apache.kafka.shaded.io.opentelemetry.proto.metrics.v1.MetricsData;
import org.apache.kafka.shaded.io.opentelemetry.proto.metrics.v1.NumberDataPoint;
import org.apache.kafka.shaded.io.opentelemetry.proto.metrics.v1.ResourceMetrics;
import org.apache.kafka.shaded.io.opentelemetry.proto.metrics.v1.ScopeMetrics;

/**
 * A broker's plug-in that receives client metrics (KIP-714). It appends a line for each data point
 * to the file of -Dtelemetry.receiver.file, with tabs between: client id, client instance id,
 * whether this is the last push, attributes of the resource, name, kind, attributes, value, start
 * and time in nanoseconds.
 */
public class TelemetryReceiver
    implements MetricsReporter, ClientTelemetry, ClientTelemetryReceiver {

    private static final String FILE = System.getProperty("telemetry.receiver.file");

    @Override
    public ClientTelemetryReceiver clientReceiver() {
        return this;
    }

    @Override
    public synchronized void exportMetrics(
        AuthorizableRequestContext context, ClientTelemetryPayload payload) {
        StringBuilder lines = new StringBuilder();
        try (FileWriter file = new FileWriter(FILE, true)) {
            MetricsData data = MetricsData.parseFrom(payload.data());
            String push = context.clientId() + "\t" + payload.clientInstanceId()
                + "\t" + payload.isTerminating();
            for (ResourceMetrics resource : data.getResourceMetricsList()) {
                String labels = attributes(resource.getResource().getAttributesList());
                for (ScopeMetrics scope : resource.getScopeMetricsList()) {
                    for (Metric metric : scope.getMetricsList()) {
                        append(lines, push + "\t" + labels + "\t" + metric.getName(), metric);
                    }
                }
            }
            file.write(lines.toString());
        } catch (IOException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static void append(StringBuilder lines, String prefix, Metric metric) {
        String kind = "GAUGE";
        List<NumberDataPoint> points = metric.getGauge().getDataPointsList();
        if (metric.hasSum()) {
            String monotonic = metric.getSum().getIsMonotonic() ? "MONOTONIC_" : "";
            kind = monotonic + metric.getSum().getAggregationTemporality();
            points = metric.getSum().getDataPointsList();
        }
        for (NumberDataPoint point : points) {
            lines.append(prefix).append("\t").append(kind)
                .append("\t").append(attributes(point.getAttributesList()))
                .append("\t").append(point.getAsDouble())
                .append("\t").append(point.getStartTimeUnixNano())
                .append("\t").append(point.getTimeUnixNano()).append("\n");
        }
    }

    private static String attributes(List<KeyValue> attributes) {
        Map<String, String> sorted = new TreeMap<>();
        for (KeyValue attribute : attributes) {
            sorted.put(attribute.getKey(), attribute.getValue().getStringValue());
        }
        return sorted.toString();
    }

    @Override
    public void configure(Map<String, ?> configs) { }

    @Override
    public void init(List<KafkaMetric> metrics) { }

    @Override
    public void metricChange(KafkaMetric metric) { }

    @Override
    public void metricRemoval(KafkaMetric metric) { }

    @Override
    public void close() { }
}
