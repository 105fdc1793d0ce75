import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.StringReader;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import java.util.TreeMap;

/** Loads the files 0, 1, 2, … of a directory, and prints names and values, a line a file. */
public class PropertiesDump {
    public static void main(String[] args) throws IOException {
        for (int i = 0; Files.exists(Path.of(args[0], "" + i)); i++) {
            System.out.println(dump(Files.readAllBytes(Path.of(args[0], "" + i))));
        }
    }

    private static String dump(byte[] content) throws IOException {
        Properties properties = new Properties();
        try {
            load(properties, content);
        } catch (IllegalArgumentException e) {
            return "malformed";
        }
        TreeMap<String, String> sorted = new TreeMap<>();
        for (String name : properties.stringPropertyNames()) {
            if (!name.isEmpty()) {
                sorted.put(hex(name), hex(properties.getProperty(name)));
            }
        }
        return sorted.toString();
    }

    /** Reads UTF-8 as UTF-8; Properties.load(InputStream) reads ISO-8859-1. */
    private static void load(Properties properties, byte[] content) throws IOException {
        String text;
        try {
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(content)).toString();
        } catch (CharacterCodingException e) {
            properties.load(new ByteArrayInputStream(content));
            return;
        }
        properties.load(new StringReader(text));
    }

    private static String hex(String text) {
        StringBuilder out = new StringBuilder();
        for (char c : text.toCharArray()) {
            out.append(String.format("%04x", (int) c));
        }
        return out.toString();
    }
}
